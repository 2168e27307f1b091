"""The scores that were reached, and the mutants that change nothing that can be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.mutants.mutant import Change, Fate

RECORD = Path(__file__).with_name("record.yaml")


@dataclass(frozen=True)
class Recorded:
    """What is known of a module."""

    score: float
    """Per cent of the mutants that count; a lower one is a failure."""
    equivalent: Mapping[Change, str] = field(default_factory=dict)
    """Mutants that behave as the code does, with the reason; they do not count."""


def read_record(path: Path = RECORD) -> dict[str, Recorded]:
    """By the modules' names."""
    loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {
        name: Recorded(
            entry["score"],
            {
                Change(item.get("where", ""), item["was"], item["becomes"]): item["why"]
                for item in entry.get("equivalent", [])
            },
        )
        for name, entry in loaded.items()
    }


@dataclass(frozen=True)
class Result:
    """How a module's mutants ended, those that count."""

    killed: int
    timeouts: int
    survivors: list[Change]

    @property
    def score(self) -> float:
        """Per cent of the mutants that a test noticed, rounded down to one decimal."""
        noticed = self.killed + self.timeouts
        return 1000 * noticed // (noticed + len(self.survivors)) / 10


def result_of(fates: Iterable[tuple[Change, Fate]], recorded: Recorded) -> Result:
    """Count them, leaving out those that are known to be equivalent."""
    counted = [pair for pair in fates if pair[0] not in recorded.equivalent]
    return Result(
        sum(fate is Fate.KILLED for _, fate in counted),
        sum(fate is Fate.TIMEOUT for _, fate in counted),
        [change for change, fate in counted if fate is Fate.SURVIVED],
    )
