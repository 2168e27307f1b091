"""Savers of two processes in one, what they save, and what must then be there."""

from __future__ import annotations

from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.saver import Outcome, Saver
from prs_med.checkpoint.snapshot import Snapshot
from tests.crash.cutting import zero2
from tests.unit.checkpoint_states import State, load

STATE = State.random({"mllm": [[40_000]]})
CUTS = {"mllm": zero2(STATE.parameters["mllm"], 2)}
BYTES = sum(vector.nbytes for vector in STATE.vectors["mllm"].values())


def savers(place: DirectoryPlace, report_seconds: float = 60.0, world: int = 2) -> list[Saver]:
    return [Saver(place, rank, world, "run", report_seconds=report_seconds)
            for rank in range(world)]  # fmt: skip


def save_all(both: list[Saver], step: int, parts: list[Snapshot]) -> list[Outcome]:
    for saver, part in zip(both, parts, strict=True):
        saver.save(CheckpointName(1, step), part)
    outcomes = [saver.wait() for saver in both]
    assert all(outcomes)
    return [outcome for outcome in outcomes if outcome]


def check_saved(place: DirectoryPlace, steps: list[int]) -> None:
    """These and no others are complete, and nothing else is left."""
    assert [name.step for name in place.checkpoints()] == steps
    for name in place.checkpoints():
        reader = CheckpointReader(place, name)
        reader.verify()
        load(reader, STATE, CUTS)


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".draft-")]
