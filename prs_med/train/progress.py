"""How far a run has come, apart from its weights: what its next step needs to know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from prs_med.data.order import Rank
from prs_med.train.bad_steps import BadStep, batch_of_step
from prs_med.train.distributed import sum_over_ranks

LOSS_NAMES = ("loss", "loss_seg", "loss_txt", "loss_cls")


class RunningLosses:
    """Means of the losses over all samples since the last reading, kept on the device."""

    def __init__(self, device: torch.device, rank: Rank) -> None:
        self._rank = rank
        self._sums = torch.zeros(len(LOSS_NAMES), dtype=torch.float64, device=device)
        self._units = 0

    def add(self, units: int, *losses: torch.Tensor) -> None:
        """Take in the means over the ``units`` of a micro-batch, in the order of
        :data:`LOSS_NAMES`; every process has as many."""
        self._sums += units * torch.stack([loss.detach() for loss in losses]).double()
        self._units += units * self._rank.world

    def read(self) -> dict[str, float]:
        """The means, to start anew. Every process must call it."""
        means = sum_over_ranks(self._sums.clone()) / self._units
        self._sums.zero_()
        self._units = 0
        return dict(zip(LOSS_NAMES, means.tolist(), strict=True))

    def dumps(self) -> dict[str, Any]:
        """What :meth:`load` takes. Every process must call it.

        From here on the first process keeps the sums of all, as it does when a run goes on: they
        are added up in the same order then.
        """
        self._keep(sum_over_ranks(self._sums.clone()).tolist())
        return {"sums": self._sums.tolist(), "units": self._units}

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`dumps` gave on the first process."""
        self._keep([math.nan if value is None else value for value in saved["sums"]])
        self._units = saved["units"]

    def _keep(self, sums: list[float]) -> None:
        if self._rank.index:
            self._sums.zero_()
        else:
            self._sums.copy_(torch.tensor(sums, dtype=torch.float64))


class Progress:
    """Steps done and what they left behind."""

    def __init__(self, device: torch.device, rank: Rank) -> None:
        self.step = 0
        """Optimizer steps done, those that were skipped included."""
        self.bad_in_a_row = 0
        """Bad steps since the last good one behind them."""
        self.bad_at = 0
        """The last bad step."""
        self.bad_total = 0
        self.skipped_batches: list[int] = []
        """Global batches that no step sees, in ascending order."""
        self.recent_losses: list[float] = []
        """What a jump of the loss is told by."""
        self.scores: Mapping[str, float | None] = {}
        """Of the last validation; None where a score of a checkpoint is not finite."""
        self.scored_at = 0
        """The step of the last validation."""
        self.losses = RunningLosses(device, rank)

    @property
    def next_batch(self) -> int:
        """Which global batch of the endless sequence the next step sees, from 0."""
        return batch_of_step(self.step, self.skipped_batches)

    def go_back(self, saved: dict[str, Any], bad: BadStep) -> None:
        """Go on from what an earlier :meth:`dumps` gave, without the batch of a bad step."""
        counts = self.bad_in_a_row, self.bad_at, self.bad_total
        skipped = sorted({*self.skipped_batches, bad.batch})
        self.load(saved)
        self.bad_in_a_row, self.bad_at, self.bad_total = counts
        self.skipped_batches = skipped

    def dumps(self) -> dict[str, Any]:
        """JSON values from which a run goes on. Every process must call it."""
        return {
            "step": self.step,
            "bad_in_a_row": self.bad_in_a_row,
            "bad_at": self.bad_at,
            "bad_total": self.bad_total,
            "skipped_batches": self.skipped_batches,
            "recent_losses": self.recent_losses,
            "scores": self.scores,
            "scored_at": self.scored_at,
            "losses": self.losses.dumps(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`dumps` gave on the first process."""
        self.step = saved["step"]
        self.bad_in_a_row = saved["bad_in_a_row"]
        self.bad_at = saved["bad_at"]
        self.bad_total = saved["bad_total"]
        self.skipped_batches = saved["skipped_batches"]
        self.recent_losses = saved["recent_losses"]
        self.scores = saved["scores"]
        self.scored_at = saved["scored_at"]
        self.losses.load(saved["losses"])
