"""What a run of the tests cost: a section at the end of its output."""

from __future__ import annotations

import os
import resource
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from tests import patience
from tests.fork_server import programs
from tests.scheduling import lane

_STARTS = "PRS_MED_TEST_STARTS"
_COUNTER = Path(__file__).parent / "counted_starts"


class Cost:
    """Adds up, in the process that reports: time by lane, programs started, the machine's speed."""

    def __init__(self) -> None:
        self._slowness = patience.measure()
        descriptor, self._starts = tempfile.mkstemp(prefix="prs-med-starts-")
        os.close(descriptor)
        os.environ[_STARTS] = self._starts
        there = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (there, str(_COUNTER))))
        programs.make_folder()
        self._spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._tests: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One part of a test (set-up, call, tear-down) has ended."""
        self._spans[lane(report.nodeid)].append((report.start, report.stop))
        self._tests[lane(report.nodeid)].add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it."""
        say = terminalreporter.write_line
        terminalreporter.section("what it cost")
        begun = min((start for spans in self._spans.values() for start, _ in spans), default=0)
        say("lane         tests   busy s   from s    to s")
        for name, spans in sorted(self._spans.items()):
            busy = sum(stop - start for start, stop in spans)
            first, last = min(s for s, _ in spans) - begun, max(s for _, s in spans) - begun
            say(f"{name:12} {len(self._tests[name]):5} {busy:8.0f} {first:8.0f} {last:7.0f}")
        starts = Path(self._starts).read_text(encoding="utf-8").splitlines()
        afresh = sum(line.startswith("afresh") for line in starts)
        say(f"Python programs: {afresh} started afresh, {len(starts) - afresh} by fork")
        used = (
            resource.getrusage(resource.RUSAGE_CHILDREN),
            resource.getrusage(resource.RUSAGE_SELF),
        )
        seconds = sum(part.ru_utime + part.ru_stime for part in used)
        say(
            f"{seconds:.0f} CPU-seconds, without daemons and what they started; this machine takes "
            f"{self._slowness:.2f} times as long as that of the limits"
        )

    def pytest_unconfigure(self) -> None:
        """Nothing is left."""
        programs.remove_folder()
        os.environ.pop(_STARTS)
        Path(self._starts).unlink()
