"""How long each process waits for data and computes, to find the one that holds up the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prs_med.data.order import Rank
from prs_med.train.distributed import sum_over_ranks

_SLOW = 1.5
"""Times the median at which a process is called slow."""
_SHORTEST = 0.05
"""Seconds a step under which no difference is worth a word."""


class RankTimes:
    """Seconds per step since the last reading, of every process.

    A backward pass and an optimizer step last as long on every process, since each waits for the
    slowest there. What differs is the time until a batch is there, and that of the forward pass
    (under ZeRO-3 it waits for the others too, and tells less). On a GPU the forward pass is timed
    by events on the device, so that nothing waits for it.
    """

    def __init__(self, device: torch.device, rank: Rank) -> None:
        self._device = device
        self._rank = rank
        self._data = 0.0
        self._forward = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def data(self) -> Iterator[None]:
        """Time spent here counts as waiting for data."""
        begun = time.perf_counter()
        yield
        self._data += time.perf_counter() - begun

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time spent here counts as the forward pass."""
        if self._device.type != "cuda":
            begun = time.perf_counter()
            yield
            self._forward += time.perf_counter() - begun
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._events.append((start, end))

    def read(self, steps: int) -> RankSeconds:
        """What was counted since the last call, over so many steps. Every process must call it."""
        if self._events:
            self._events[-1][1].synchronize()
            self._forward += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        table = torch.zeros(self._rank.world, 2, dtype=torch.float64, device=self._device)
        table[self._rank.index] = torch.tensor([self._data, self._forward]) / steps
        self._data = self._forward = 0.0
        data, forward = sum_over_ranks(table).T.tolist()
        return RankSeconds(data, forward)


class RankSeconds:
    """Seconds per step, by rank."""

    def __init__(self, data: list[float], forward: list[float]) -> None:
        self.data = data
        self.forward = forward

    def metrics(self) -> dict[str, float]:
        """For the metrics log: means over the processes, and the slowest one."""
        return {
            "data_wait_s": sum(self.data) / len(self.data),
            "data_wait_slowest_s": max(self.data),
            "forward_s": sum(self.forward) / len(self.forward),
            "forward_slowest_s": max(self.forward),
        }

    def complaint(self) -> str:
        """Names a process that holds up the others; empty if none does."""
        for what, seconds in (("waits for data", self.data), ("is slow to compute", self.forward)):
            slowest = max(seconds)
            median = sorted(seconds)[(len(seconds) - 1) // 2]
            if slowest > max(_SLOW * median, median + _SHORTEST):
                return (
                    f"rank {seconds.index(slowest)} {what}: {slowest:.2f} s a step, "
                    f"half of the processes {median:.2f} s or less"
                )
        return ""
