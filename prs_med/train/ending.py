"""A run that is asked to end has ended in time, whatever stands in its way.

Slurm, clouds and containers kill what has not ended some two minutes after they asked for it, and
take it for a crash. Within the budget the step is finished, saved and copied. A place that does not
answer uses up half of it; and where a process stands still at its end, waiting for data or for
another process, it ends all the same, with the status of a run that goes on later.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from prs_med.storage.retry import give_up_by
from prs_med.train.stop_requests import StopRequests

GO_ON_LATER = 75
"""Exit status of a run that was asked to end."""
_FOR_STORAGE = 0.5
"""Share of the budget after which no request to storage is repeated."""
_POLL_SECONDS = 5.0
"""Between two looks for a request, which are looks into a folder that all processes may share."""
_LAST_WORDS_SECONDS = 2.0

_logger = logging.getLogger("prs_med")


class EndInTime:
    """Keeps the budget while in its context."""

    def __init__(
        self, stop: StopRequests, seconds: float, last_words: Callable[[str], None]
    ) -> None:
        """
        Args:
            stop: who asks.
            seconds: the budget, from the request on; 0 for none.
            last_words: called before this process is ended; given who asked.
        """
        self._stop = stop
        self._seconds = seconds
        self._last_words = last_words
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ending", daemon=True)

    def __enter__(self) -> EndInTime:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._seconds:
            self._thread.join()
        give_up_by(math.inf)

    def _watch(self) -> None:
        while not (reason := self._stop.known()):
            if self._over.wait(_POLL_SECONDS):
                return
        begun = time.monotonic() - self._stop.seconds_ago()
        give_up_by(begun + _FOR_STORAGE * self._seconds)
        if not self._over.wait(max(0.0, begun + self._seconds - time.monotonic())):
            self._end(reason)

    def _end(self, reason: str) -> None:
        try:
            _logger.error(
                "asked to end by %s %.0f s ago (--stop_seconds) and still not done: ending here; "
                "what is not saved is computed again",
                reason,
                self._seconds,
            )
            # The disk may be what does not answer.
            last = threading.Thread(target=self._last_words, args=(reason,), daemon=True)
            last.start()
            last.join(_LAST_WORDS_SECONDS)
        finally:
            os._exit(GO_ON_LATER)
