"""A small change of the code, and whether a test noticed it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    """The tests did not end, which is noticed as well."""
    SURVIVED = "survived"
    """All tests passed, or none runs that code."""


@dataclass(frozen=True, order=True)
class Change:
    """One mutant, named by what it says rather than by a number, which would be another's as soon
    as the code before it changes."""

    where: str
    """The function or method, or empty for what stands outside of them."""
    was: str
    """The changed lines as they stand, without what surrounds them."""
    becomes: str

    def __str__(self) -> str:
        return f"{self.where or 'module'}: {self.was}  ->  {self.becomes}"


_STRICT = re.compile(r"[\s,]*(?:strict=\w+)?[\s,]*\)")


def concerns_a_check_alone(change: Change) -> bool:
    """Whether it takes nothing but the ``strict=True`` of a ``zip`` away, which states what holds
    and changes no result."""
    return _STRICT.sub(")", change.was) == _STRICT.sub(")", change.becomes)


def change_between(where: str, before: str, after: str) -> Change:
    """What differs between two texts of a function or a file."""
    was, becomes = [], []
    for line in difflib.ndiff(before.splitlines(), after.splitlines()):
        if line.startswith("- "):
            was.append(line[2:].strip())
        elif line.startswith("+ "):
            becomes.append(line[2:].strip())
    return Change(where, " ".join(was), " ".join(becomes))


def sample(changes: Sequence[Change], limit: int) -> list[int]:
    """Places of at most ``limit`` of them, in their order; the same ones in every run."""
    by_hash = sorted(
        range(len(changes)), key=lambda place: sha256(str(changes[place]).encode()).digest()
    )
    return sorted(by_hash[:limit])
