"""What this process owns of an engine's training state, as fragments of parameters.

However a ZeRO stage cuts parameters, here all parts become fragments (parameter, first element,
number of elements) of fp32 masters, AdamW's two moments and the moving average, if one is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prs_med.checkpoint.manifest import Parameter
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments
from prs_med.train.zero_optimizer import (
    flat_masters,
    owned_parts,
    renew_working_weights,
    whole_shape,
)

MASTER, MOMENTS, AVERAGE = "master", ("exp_avg", "exp_avg_sq"), "average"


@dataclass(frozen=True)
class _Stretch:
    """Where neighbouring fragments lie in one of the flat masters."""

    flat: int
    start: int
    length: int


class EngineState:
    """The state of one engine, to and from host memory."""

    def __init__(self, engine: Any, averages: Callable[[Any], list[Tensor]] | None) -> None:
        """``averages`` gives the moving averages that belong to an optimizer's masters."""
        self._optimizer = engine.optimizer
        self._averages = averages(engine.optimizer) if averages else []
        named = [(n, p) for n, p in engine.module.named_parameters() if p.requires_grad]
        parts = owned_parts(self._optimizer, [parameter for _, parameter in named])
        self._stretches: list[_Stretch] = []
        fragments = []
        for number, part in sorted(
            ((n, part) for n, part in enumerate(parts) if part),
            key=lambda entry: (entry[1].master, entry[1].at),
        ):
            fragments.append(Fragment(number, part.start, part.length))
            self._add(_Stretch(part.master, part.at, part.length))
        elements = sum(fragment.length for fragment in fragments)
        kinds = (MASTER, *MOMENTS, *([AVERAGE] if averages else []))
        self._host = {kind: _host_vector(elements) for kind in kinds}
        self.owned = OwnedFragments(
            [Parameter(name, list(whole_shape(parameter))) for name, parameter in named],
            fragments,
            {kind: vector.numpy() for kind, vector in self._host.items()},
        )

    @property
    def nbytes(self) -> int:
        """Host memory that the state takes up."""
        return sum(vector.nbytes for vector in self._host.values())

    def snapshot(self) -> OwnedFragments:
        """Start to copy the state to host memory, always the same; it is there once the device
        has been synchronised."""
        for kind in self._host:
            for flat, stretch, host in self._pairs(kind):
                if flat is None:
                    host.zero_()
                else:
                    host.copy_(flat[stretch.start : stretch.start + stretch.length].detach(),
                               non_blocking=True)  # fmt: skip
        self.owned.optimizer_steps = self._steps()
        return self.owned

    def fill(self, reader: CheckpointReader, group: str) -> bool:
        """Read what a checkpoint holds of a group into :attr:`owned`; whether it holds a moving
        average, or none is wanted. One that it does not hold starts from its weights.

        Raises:
            BrokenCheckpointError, UnfittingCheckpointError, StorageError: as of
                :meth:`prs_med.checkpoint.reader.CheckpointReader.fill`.
        """
        vectors = dict(self.owned.vectors)
        average = vectors.get(AVERAGE)
        if average is None or AVERAGE in reader.kinds(group):
            reader.fill(group, self.owned)
            return True
        del vectors[AVERAGE]
        stored = replace(self.owned, vectors=vectors)
        reader.fill(group, stored)
        self.owned.optimizer_steps = stored.optimizer_steps
        average[:] = vectors[MASTER]
        return False

    @torch.no_grad()
    def restore(self) -> None:
        """Take over what was read into :attr:`owned`. Every process must call it."""
        self._make_moments(self.owned.optimizer_steps)
        for kind in self._host:
            for flat, stretch, host in self._pairs(kind):
                assert flat is not None, "made above"
                flat[stretch.start : stretch.start + stretch.length].copy_(host)
        renew_working_weights(self._optimizer)

    def _add(self, stretch: _Stretch) -> None:
        if self._stretches:
            last = self._stretches[-1]
            if last.flat == stretch.flat and last.start + last.length == stretch.start:
                self._stretches[-1] = _Stretch(last.flat, last.start, last.length + stretch.length)
                return
        self._stretches.append(stretch)

    def _pairs(self, kind: str) -> list[tuple[Tensor | None, _Stretch, Tensor]]:
        """Flat vectors on the device (None: no step was made yet) beside their host memory."""
        masters = flat_masters(self._optimizer)
        pairs, at = [], 0
        for stretch in self._stretches:
            flat: Tensor | None = masters[stretch.flat]
            if kind == AVERAGE:
                flat = self._averages[stretch.flat]
            elif kind != MASTER:
                flat = self._adam().get(flat, {}).get(kind)
            pairs.append((flat, stretch, self._host[kind][at : at + stretch.length]))
            at += stretch.length
        return pairs

    def _adam(self) -> dict[Any, dict[str, Any]]:
        state: dict[Any, dict[str, Any]] = self._optimizer.optimizer.state
        return state

    def _steps(self) -> int:
        counts = {int(entry["step"]) for entry in self._adam().values() if "step" in entry}
        assert len(counts) <= 1, "the groups of an optimizer disagree about its steps"
        return counts.pop() if counts else 0

    def _make_moments(self, steps: int) -> None:
        for master in flat_masters(self._optimizer):
            entry = self._adam().setdefault(master, {})
            for kind in MOMENTS:
                if kind not in entry:
                    entry[kind] = torch.zeros_like(master)
            entry["step"] = torch.tensor(float(steps), dtype=torch.float32)


def _host_vector(elements: int) -> Tensor:
    vector = torch.zeros(elements, dtype=torch.float32)
    return vector.pin_memory() if torch.cuda.is_available() else vector


def numpy_copy(tensor: Tensor) -> np.ndarray:
    """A tensor on the host, in a type that numpy has."""
    value = tensor.detach().to("cpu", copy=True)
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
