"""An exponential moving average (EMA) of the trained weights, partitioned like them.

Each rank averages the fp32 masters that it owns, so the average costs as much memory as they do,
and no communication. To be used, it changes places with the masters, from which DeepSpeed then
makes the working weights anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prs_med.train.zero_optimizer import flat_masters, renew_working_weights


class WeightAverage:
    """The average over several ZeRO optimizers (stages 1 to 3, on the device or offloaded)."""

    def __init__(self, optimizers: list[Any], decay: float) -> None:
        """Start from the weights at hand; ``decay`` is the share that each step keeps.

        Raises:
            SettingError: if the optimizer states lie on NVMe.
        """
        self._optimizers = optimizers
        self._decay = decay
        self.updates = 0
        """Steps taken in."""
        self._average = [master.detach().clone() for master in self._masters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step.

        Early averages keep less, (1 + n) / (10 + n) after n updates at most, or they would hold
        the initial weights for long.
        """
        self.updates += 1
        keep = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, self._masters(), 1 - keep)

    def of(self, optimizer: Any) -> list[Tensor]:
        """The averages that belong to :func:`flat_masters` of one of the optimizers."""
        first = 0
        for other in self._optimizers:
            count = len(flat_masters(other))
            if other is optimizer:
                return self._average[first : first + count]
            first += count
        raise ValueError("an optimizer that is not averaged over")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the average. Every rank must enter and leave together."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for master, average in zip(self._masters(), self._average, strict=True):
            held = master.clone()
            master.copy_(average)
            average.copy_(held)
        for optimizer in self._optimizers:
            renew_working_weights(optimizer)

    def _masters(self) -> list[Tensor]:
        return [master for optimizer in self._optimizers for master in flat_masters(optimizer)]
