"""What processes tell each other over the host, while their devices go on."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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
