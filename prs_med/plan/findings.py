"""What a check of the surroundings finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    PASS = "pass"
    WARN = "warn"
    """Training can start, but something may go wrong or be slow."""
    FAIL = "fail"
    """Training cannot run like this."""


@dataclass(frozen=True)
class Finding:
    """One line of the result."""

    verdict: Verdict
    what: str
    detail: str
    fix: str = ""
    """What to do, unless it passed."""

    def line(self) -> str:
        """For a terminal."""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.verdict.value}  {self.what}: {self.detail}{fix}"


def passed(what: str, detail: str) -> Finding:
    """All is well."""
    return Finding(Verdict.PASS, what, detail)


def warned(what: str, detail: str, fix: str) -> Finding:
    """Something to know."""
    return Finding(Verdict.WARN, what, detail, fix)


def failed(what: str, detail: str, fix: str) -> Finding:
    """Something to mend."""
    return Finding(Verdict.FAIL, what, detail, fix)
