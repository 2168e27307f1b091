"""Steps that would harm the weights: what makes a step bad, and what becomes of it."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Cause = Literal["a loss or gradient was not finite", "the loss jumped"]

_REMEMBERED = 50
_NEEDED = 10
"""Losses that must be known before one can stand out."""


class LossSpikes:
    """Tells a loss that is far above those before it.

    It is compared with the median of the last 50 steps that counted, which a single jump does not
    move. The first 10 steps are never called spikes.
    """

    def __init__(self, factor: float, losses: Iterable[float] = ()) -> None:
        """
        Args:
            factor: times the median at which a loss is a spike; 0: none is.
            losses: those remembered from before.
        """
        self._factor = factor
        self._losses = deque(losses, maxlen=_REMEMBERED)

    @property
    def wanted(self) -> bool:
        """Whether losses are watched at all."""
        return self._factor > 0

    @property
    def losses(self) -> list[float]:
        """Those remembered."""
        return list(self._losses)

    def is_spike(self, loss: float) -> bool:
        """Whether this loss is one."""
        if not self.wanted or len(self._losses) < _NEEDED:
            return False
        return loss > self._factor * statistics.median(self._losses)

    def remember(self, loss: float) -> None:
        """Take in the loss of a step that counted."""
        self._losses.append(loss)


@dataclass(frozen=True)
class BadStep:
    """One bad step."""

    step: int
    """Its number, from 1."""
    batch: int
    """Which global batch of the endless sequence it saw, from 0."""
    cause: Cause
    loss: float | None
    """Mean over its samples, if it was looked at."""
    row_ids: list[list[str]]
    """The samples it saw, of each process."""

    def as_json(self, action: str) -> dict[str, Any]:
        """A line of ``events.jsonl``."""
        return {**vars(self), "action": action}


class RollBack(Exception):
    """Training is to go back to the last checkpoint, and on without the batch of a bad step."""

    def __init__(self, bad: BadStep) -> None:
        super().__init__(f"step {bad.step}: {bad.cause}")
        self.bad = bad


def batch_of_step(step: int, skipped: Sequence[int]) -> int:
    """Which global batch a step sees, both counted from 0, if some are skipped.

    Args:
        step: steps done before it.
        skipped: numbers of the global batches that no step sees, in ascending order.
    """
    batch = step
    for one in skipped:
        if one > batch:
            break
        batch += 1
    return batch


def without(
    micro_batches: Iterable[T], first: int, accumulation: int, skipped: Sequence[int]
) -> Iterator[T]:
    """The micro-batches of all global batches that are not skipped.

    Args:
        micro_batches: in order, ``accumulation`` for each global batch.
        first: number of the first one's global batch.
        accumulation: micro-batches that a process has of each global batch.
        skipped: numbers of global batches.
    """
    left_out = set(skipped)
    for number, micro_batch in enumerate(micro_batches):
        if first + number // accumulation not in left_out:
            yield micro_batch
