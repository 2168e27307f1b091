"""What asks a run to save and end before its last step.

The loop looks between two steps, validation between two batches. Launchers pass signals on in
different ways, some to no process and some with a deadline, so there is also a file that works
under all of them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_FILE = "STOP"
_WATCHED = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM: spot instances, ``scancel``, ``docker stop``. SIGUSR1: ``sbatch --signal=USR1@120``."""
_OF_LAUNCHERS = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")
"""What ``torchrun`` and ``srun`` (:mod:`prs_med.srun`), and what ``deepspeed`` tell each of their
processes."""


class StopRequests:
    """Whether this process was asked to end."""

    def __init__(self, folder: Path) -> None:
        """``folder``: where a file named ``STOP`` asks the run to end."""
        self._file = folder / STOP_FILE
        # A shell that started this process may end before it, as after "nohup ... &" and a logout.
        self._launcher = os.getppid() if any(n in os.environ for n in _OF_LAUNCHERS) else None
        self._signal = ""
        self._asked_at: float | None = None
        self._heard = False
        self.step = 0
        """Steps done, for who has to say so when the run itself cannot."""
        self.stopped = False
        """Whether the run has done what it was asked."""

    def reason(self) -> str:
        """Who asked; empty if nobody did."""
        reason = self._reason()
        if reason and self._asked_at is None:
            self._asked_at = time.monotonic()
        return reason

    def hear(self) -> None:
        """Take note that another process was asked: a signal may reach one of them alone."""
        self._heard = True
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def known(self) -> str:
        """As :meth:`reason`, or that another process was asked, as far as it is known here."""
        return self.reason() or ("another process" if self._heard else "")

    def seconds_ago(self) -> float:
        """How long this process has known of a request; 0 if there is none."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    def _reason(self) -> str:
        if self._signal:
            return self._signal
        if self._launcher is not None and os.getppid() != self._launcher:
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
        if self._asked_at is None:
            self._asked_at = time.monotonic()


@contextmanager
def watch_for_stop(folder: Path) -> Iterator[StopRequests]:
    """Take note of signals while in this context, which must be in the main thread.

    SIGHUP, the end of the terminal, is one of them unless it was ignored before, as ``nohup`` has
    it.

    After a run that was stopped they are ignored. The first process to exit with the status of a
    saved run makes ``srun --kill-on-bad-exit`` send SIGTERM to the others: one that died of it
    while Python shuts down would hide that status.
    """
    requests = StopRequests(folder)
    watched = [*_WATCHED]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        watched.append(signal.SIGHUP)
    before = {number: signal.signal(number, requests.note) for number in watched}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if requests.stopped else handler)
