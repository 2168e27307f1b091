"""Means over the samples of all processes, whichever process has which sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from prs_med.train.distributed import sum_over_ranks


class Means:
    """Adds up named values sample by sample."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` of the values, the same on every process."""
        self._sums = dict.fromkeys(names, 0.0)
        self._counts = dict.fromkeys(names, 0)

    def add(self, values: Mapping[str, float | None]) -> None:
        """Take in the values of one sample; None is one that it does not have.

        Raises:
            KeyError: a name is none of those given at the start.
        """
        for name, value in values.items():
            if value is not None:
                self._sums[name] += float(value)
                self._counts[name] += 1

    def read(self, device: torch.device) -> tuple[dict[str, float], dict[str, int]]:
        """Each mean over the samples that have the value, and how many have it, over all processes.

        A value that no sample has is left out of the means. Every process must call it;
        ``device`` is where processes exchange numbers.
        """
        rows = [[self._sums[name], self._counts[name]] for name in self._sums]
        totals = sum_over_ranks(torch.tensor(rows, dtype=torch.float64, device=device)).tolist()
        counts = {name: int(count) for name, (_, count) in zip(self._sums, totals, strict=True)}
        means = {
            name: total / count
            for name, (total, count) in zip(self._sums, totals, strict=True)
            if count
        }
        return means, counts
