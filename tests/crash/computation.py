"""A stand-in for training whose state after each step is known, however it was divided."""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from prs_med.checkpoint.manifest import Parameter
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.snapshot import Snapshot
from tests.crash.cutting import Cut, element_numbers, owned_part, zero2, zero3

KINDS = ("master", "exp_avg", "exp_avg_sq")
METRICS = "metrics.jsonl"
_SHAPES: dict[str, list[list[int]]] = {
    "mllm": [[7], [3, 5], [], [11, 13], [2, 3, 4], [1]],
    "segmentation": [[257], [16, 16], [2]],
}
GROUPS = {
    group: [Parameter(f"{group}.{number}", shape) for number, shape in enumerate(shapes)]
    for group, shapes in _SHAPES.items()
}
CUTS: dict[str, Cut] = {"mllm": zero2, "segmentation": zero3}


class Part:
    """What one of several processes computes."""

    def __init__(self, rank: int, world: int) -> None:
        self.step = 0
        self._numbers = {}
        self.owned = {}
        for group, parameters in GROUPS.items():
            fragments = CUTS[group](parameters, world)[rank]
            self._numbers[group] = element_numbers(parameters, fragments)
            self.owned[group] = owned_part(parameters, fragments, _start(group))

    def advance(self) -> None:
        """One step; what becomes of an element depends on nothing but itself and the step."""
        self.step += 1
        for group, owned in self.owned.items():
            _update(owned.vectors, self._numbers[group], self.step)
            owned.optimizer_steps = self.step

    def snapshot(self) -> Snapshot:
        """A copy of the state."""
        copies = {
            group: type(owned)(
                owned.parameters,
                owned.fragments,
                {kind: vector.copy() for kind, vector in owned.vectors.items()},
                owned.optimizer_steps,
            )
            for group, owned in self.owned.items()
        }
        return Snapshot(copies, _buffers(self.step), {METRICS: _metrics(self.step)}, self._state())

    def restore(self, reader: CheckpointReader) -> None:
        """Go on from a checkpoint."""
        for group, owned in self.owned.items():
            reader.fill(group, owned)
        self.step = int(reader.manifest.state["step"])

    def values(self) -> list[list[object]]:
        """All elements, each [group, number, values], in JSON without loss."""
        return [
            [group, int(number), *(float(owned.vectors[kind][at]) for kind in KINDS)]
            for group, owned in self.owned.items()
            for at, number in enumerate(self._numbers[group])
        ]

    def _state(self) -> dict[str, object]:
        return {"step": self.step, "scores": {"val_dice": score(self.step)}}


def score(step: int) -> float:
    """Of a validation after a step; the best is early."""
    return 1 / (1 + abs(step - 3))


def expected_values(step: int) -> list[list[object]]:
    """What :meth:`Part.values` of all processes together are after a step, sorted."""
    return sorted(
        [group, number, *(float(_after(group, step)[kind][number]) for kind in KINDS)]
        for group, parameters in GROUPS.items()
        for number in range(sum(p.numel for p in parameters))
    )


def check_is_of_one_step(reader: CheckpointReader) -> None:
    """Make sure that a checkpoint is whole, and holds the state after its step and no other."""
    reader.verify()
    step = reader.name.step
    assert reader.manifest.state["step"] == step
    assert {group.optimizer_steps for group in reader.manifest.groups.values()} == {step}
    for group, parameters in GROUPS.items():
        for kind in KINDS:
            found = reader.whole(group, kind)
            vector = np.concatenate([found[p.name].reshape(-1) for p in parameters])
            assert vector.tobytes() == _after(group, step)[kind].tobytes(), (group, kind, step)
    buffers = reader.buffers()
    assert {name: value.tolist() for name, value in buffers.items()} == {
        name: value.tolist() for name, value in _buffers(step).items()
    }
    assert reader.file(METRICS) == _metrics(step)


@cache
def _after(group: str, step: int) -> dict[str, np.ndarray]:
    if step == 0:
        return _start(group)
    vectors = {kind: vector.copy() for kind, vector in _after(group, step - 1).items()}
    _update(vectors, np.arange(len(vectors["master"])), step)
    return vectors


def _start(group: str) -> dict[str, np.ndarray]:
    count = sum(p.numel for p in GROUPS[group])
    return {
        "master": np.arange(count, dtype=np.float32) / 1000,
        "exp_avg": np.zeros(count, np.float32),
        "exp_avg_sq": np.zeros(count, np.float32),
    }


def _update(vectors: dict[str, np.ndarray], numbers: np.ndarray, step: int) -> None:
    noise = ((numbers * 2654435761 + step * 40503) % 1009).astype(np.float32) / 1009
    vectors["exp_avg"][:] = step
    vectors["exp_avg_sq"][:] = vectors["exp_avg_sq"] * np.float32(0.5) + noise
    vectors["master"][:] = vectors["master"] * np.float32(0.99) + noise - vectors["exp_avg_sq"]


def _buffers(step: int) -> dict[str, np.ndarray]:
    return {
        "running_mean": np.full(3, step, np.float32),
        "batches": np.array(step, np.int64),
        "initial": np.arange(5, dtype=np.int32),
        "empty": np.empty((0, 2), np.float32),
    }


def _metrics(step: int) -> bytes:
    lines = (json.dumps({"step": at, "val_dice": score(at)}) for at in range(1, step + 1))
    return "".join(f"{line}\n" for line in lines).encode()
