"""What all processes must decide alike at the end of a step."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Agreement:
    """Processes tell each other yes or no, over the host: the device is not waited for."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")

    def any(self, *answers: bool) -> list[bool]:
        """Whether any process answers yes, for each question."""
        votes = torch.tensor(answers, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group)
        return [bool(vote) for vote in votes]
