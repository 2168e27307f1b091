"""An exponential moving average (EMA) of the trained weights, partitioned like them.

Each rank averages the fp32 masters that it owns, so the average costs as much memory as they do,
and no communication. To be used, it changes places with the masters, from which DeepSpeed then
makes the working weights anew. There is no public way to do that: the names used are those of
DeepSpeed 0.19, and tests/distributed/test_weight_average.py fails if a release renames them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prs_med.config import SettingError


class WeightAverage:
    """The average over several ZeRO optimizers (stages 1 to 3, on the device or offloaded)."""

    def __init__(self, optimizers: list[Any], decay: float) -> None:
        """Start from the weights at hand; ``decay`` is the share that each step keeps.

        Raises:
            SettingError: if the optimizer states lie on NVMe.
        """
        self._optimizers = optimizers
        self._decay = decay
        self._updates = 0
        self._average = [master.detach().clone() for master in self._masters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step.

        Early averages keep less, (1 + n) / (10 + n) after n updates at most, or they would hold
        the initial weights for long.
        """
        self._updates += 1
        keep = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, self._masters(), 1 - keep)

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
            _renew_working_weights(optimizer)

    def _masters(self) -> list[Tensor]:
        return [master for optimizer in self._optimizers for master in _masters_of(optimizer)]


def _masters_of(optimizer: Any) -> list[Tensor]:
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # stages 1 and 2
        return list(optimizer.single_partition_of_fp32_groups)
    if optimizer.swap_optimizer:
        raise SettingError(
            "--ema_decay does not work with optimizer states on NVMe: keep them on the device or "
            "the CPU (offload_optimizer.device)"
        )
    return list(optimizer.fp32_partitioned_groups_flat)


def _renew_working_weights(optimizer: Any) -> None:
    if hasattr(optimizer, "update_lp_params"):  # stages 1 and 2
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()
    for index in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(index)
    # Small parameters stay whole on every rank between steps.
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
