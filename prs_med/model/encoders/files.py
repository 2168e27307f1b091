"""Reading weight files safely and strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prs_med.model.errors import CheckpointError

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Entries under which training programs put the tensors, beside optimizer states and the like."""
WRAPPER_NAMES = ("module", "_orig_mod")
"""What DistributedDataParallel and torch.compile put into names."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth``, ``.pt`` or ``.safetensors`` file by name; no code in it is run.

    Wrappers around the tensors and in front of their names are taken off.

    Raises:
        CheckpointError: if the file is missing, corrupt, or holds anything but named tensors.
    """
    try:
        loaded = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read as weights ({reason})") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not named tensors")
    inner: Any = next((loaded[k] for k in WRAPPERS if isinstance(loaded.get(k), Mapping)), loaded)
    tensors: dict[str, Tensor] = {}
    for name, value in inner.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is {type(value).__name__}, not a tensor; "
                "is this a file of another model?"
            )
        tensors[name] = value
    return without_wrappers(tensors)


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what wrappers of modules put into their names."""
    return {
        ".".join(part for part in name.split(".") if part not in WRAPPER_NAMES): value
        for name, value in state.items()
    }


def part_of(
    whole: Mapping[str, Tensor], prefix: str, unused: tuple[str, ...], where: str
) -> dict[str, Tensor]:
    """The tensors under ``prefix``, without it; those under ``unused`` are left out.

    Raises:
        CheckpointError: naming tensors that are neither.
    """
    rest = sorted(name for name in whole if not name.startswith((prefix, *unused)))
    if rest:
        raise CheckpointError(f"{where}: tensors that no part of the model uses: {_some(rest)}")
    return {
        name.removeprefix(prefix): value
        for name, value in whole.items()
        if name.startswith(prefix) and not name.startswith(unused)
    }


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load ``state`` into ``module``: nothing missing, nothing left over, every shape equal.

    Raises:
        CheckpointError: listing what does not fit.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(set(own) - set(state)),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": sorted(
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ),
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{where}: weights do not fit; " + "; ".join(found))
    module.load_state_dict(state)


def _some(names: list[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
