"""What processes tell each other over the host, while their devices go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_LONGEST_PAUSE = 1.0
"""Seconds in which a process that still works answers the others at the latest."""


class Agreement:
    """A group of all processes whose messages do not pass through their devices."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def any(self, *answers: bool) -> list[bool]:
        """Whether any process answers yes, for each question."""
        votes = torch.tensor(answers, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(vote) for vote in votes]

    def gathered(self, value: T) -> list[T]:
        """The values of all processes in their order, on the first one; nothing on the others."""
        first = dist.get_rank() == 0
        values: list[Any] | None = [None] * dist.get_world_size() if first else None
        dist.gather_object(value, values, group=self._group)
        return values or []

    @contextmanager
    def waiting_for_all(self) -> Iterator[None]:
        """For work that may take as long as it likes: whoever leaves the context waits there until
        all other processes have.

        A collective has a limit of minutes, and who is done first would stand in one. Instead a
        thread of each process asks the others, again and again, whether they still work. Nothing
        else may pass through this object meanwhile.

        Raises:
            RuntimeError: another process has ended.
        """
        done = threading.Event()
        failures: list[RuntimeError] = []

        def ask() -> None:
            pause = 0.001
            try:
                while self.any(not done.wait(pause))[0]:
                    pause = min(2 * pause, _LONGEST_PAUSE)
            except RuntimeError as error:
                failures.append(error)

        thread = threading.Thread(target=ask, name="waiting for all", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
        thread.join()
        for failure in failures:
            raise failure
