"""What asks a run to save and end before its last step; the loop looks between two steps.

Launchers pass signals on in different ways, some to no process and some with a deadline, so there
is also a file that works under all of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_FILE = "STOP"
_WATCHED = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM: spot instances, ``scancel``, ``docker stop``. SIGUSR1: ``sbatch --signal=USR1@120``."""


class StopRequests:
    """Whether this process was asked to end."""

    def __init__(self, folder: Path) -> None:
        """``folder``: where a file named ``STOP`` asks the run to end."""
        self._file = folder / STOP_FILE
        self._launcher = os.getppid()
        self._signal = ""
        self.stopped = False
        """Whether the run has done what it was asked."""

    def reason(self) -> str:
        """Who asked; empty if nobody did."""
        if self._signal:
            return self._signal
        if os.getppid() != self._launcher:
            return "the end of its launcher"
        return str(self._file) if self._file.exists() else ""

    def answered(self, stopped: bool) -> None:
        """Remove the file, so that the next start is not asked to end at once.

        Args:
            stopped: the run has saved and ends early; it takes no signals any more.
        """
        self._file.unlink(missing_ok=True)
        self.stopped = stopped

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: saving here could meet anything half done."""
        self._signal = signal.Signals(number).name


@contextmanager
def watch_for_stop(folder: Path) -> Iterator[StopRequests]:
    """Take note of signals while in this context, which must be in the main thread.

    After a run that was stopped they are ignored. The first process to exit with the status of a
    saved run makes ``srun --kill-on-bad-exit`` send SIGTERM to the others: one that died of it
    while Python shuts down would hide that status.
    """
    requests = StopRequests(folder)
    before = {number: signal.signal(number, requests.note) for number in _WATCHED}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if requests.stopped else handler)
