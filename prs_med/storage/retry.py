"""Repeat what failed for a passing reason, with growing and randomised pauses."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_random_exponential

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a failing request is repeated before it becomes an error."""
_FORGOTTEN_SECONDS = 120.0
"""After so long without a request nobody knows whether an outage lasted."""

_logger = logging.getLogger("prs_med.storage")


class TransientError(Exception):
    """A failure that may pass: throttling, a broken connection, an answer that does not come."""


class _LastCall:
    """When this process stops repeating requests, in seconds of time.monotonic."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._moment = math.inf

    def set(self, moment: float) -> None:
        with self._changed:
            self._moment = moment
            self._changed.notify_all()

    def is_over(self) -> bool:
        return time.monotonic() >= self._moment

    def pause(self, seconds: float) -> None:
        """Sleep so long, or until it is over."""
        until = time.monotonic() + seconds
        with self._changed:
            while (left := min(until, self._moment) - time.monotonic()) > 0:
                self._changed.wait(left)


_last_call = _LastCall()


def give_up_by(moment: float) -> None:
    """Repeat no request of this process any more from ``moment`` on, in seconds of
    time.monotonic; ``math.inf``: be as patient as ever."""
    _last_call.set(moment)


class Outage:
    """For how long a store has answered nobody. Whoever asks it in the meantime need not find out
    anew, so that what makes many requests gives up as soon as what makes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None
        self._last = 0.0

    def failed(self) -> None:
        """Take note of a request that failed and may be repeated."""
        now = time.monotonic()
        with self._lock:
            if self._began is None or now - self._last > _FORGOTTEN_SECONDS:
                self._began = now
            self._last = now

    def ended(self) -> None:
        """Take note of an answer."""
        with self._lock:
            self._began = None

    def seconds(self) -> float:
        """From the first failure behind the last answer until now; 0 if there was none."""
        with self._lock:
            return 0.0 if self._began is None else time.monotonic() - self._began


class _Waits:
    """How many threads wait for storage right now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def change(self, by: int) -> None:
        with self._lock:
            self._count += by

    def any(self) -> bool:
        return self._count > 0


_waits = _Waits()


@contextmanager
def waiting_for_storage() -> Iterator[None]:
    """Say that this thread waits for storage, and for a limited time: it does not hang."""
    _waits.change(1)
    try:
        yield
    finally:
        _waits.change(-1)


def waits_for_storage() -> bool:
    """Whether a thread of this process waits for storage that fails, or is slow."""
    return _waits.any()


def patiently(
    what: str, action: Callable[[], T], patience: float, outage: Outage | None = None
) -> T:
    """The result of ``action``, repeated while it raises :class:`TransientError`.

    Pauses are drawn at random between zero and a limit that doubles from half a second to thirty,
    so that the processes of a job do not come back all at once. Each is logged.

    Args:
        what: name of the file, for the log.
        patience: seconds after which the last :class:`TransientError` is raised.
        outage: of the store that is asked; what it has lasted counts.
    """
    lasting = outage or Outage()
    stop = stop_after_delay(patience)

    def attempt() -> T:
        try:
            result = action()
        except TransientError:
            lasting.failed()
            raise
        except Exception:
            lasting.ended()  # A refusal is an answer, too.
            raise
        lasting.ended()
        return result

    with ExitStack() as waiting:

        def log(state: RetryCallState) -> None:
            assert state.outcome is not None, "tenacity logs after an attempt"
            if state.attempt_number == 1:
                waiting.enter_context(waiting_for_storage())
            _logger.warning(
                "%s: %s; trying again in %.1f s (attempt %d)",
                what,
                state.outcome.exception(),
                state.upcoming_sleep,
                state.attempt_number + 1,
            )

        return Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=lambda state: stop(state) or lasting.seconds() >= patience or _last_call.is_over(),
            sleep=_last_call.pause,
            before_sleep=log,
            reraise=True,
        )(attempt)
