"""Repeat what failed for a passing reason, with growing and randomised pauses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_random_exponential

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a failing request is repeated before it becomes an error."""

_logger = logging.getLogger("prs_med.storage")


class TransientError(Exception):
    """A failure that may pass: throttling, a broken connection, an answer that does not come."""


def patiently(what: str, action: Callable[[], T], patience: float) -> T:
    """The result of ``action``, repeated while it raises :class:`TransientError`.

    Pauses are drawn at random between zero and a limit that doubles from half a second to thirty,
    so that the processes of a job do not come back all at once. Each is logged.

    Args:
        what: name of the file, for the log.
        patience: seconds after which the last :class:`TransientError` is raised.
    """

    def log(state: RetryCallState) -> None:
        assert state.outcome is not None, "tenacity logs after an attempt"
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
        stop=stop_after_delay(patience),
        before_sleep=log,
        reraise=True,
    )(action)
