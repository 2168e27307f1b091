"""The training loop: forward, loss, backward, step, and what happens between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.data.order import Rank
from prs_med.model.objective import loss_terms, weighted_mean
from prs_med.train.distributed import sum_over_ranks
from prs_med.train.engines import Engines, StepResult
from prs_med.train.schedule import learning_rate_factor
from prs_med.train.throughput import Throughput

LOSS_NAMES = ("loss", "loss_seg", "loss_txt", "loss_cls")


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to look at."""


@dataclass(frozen=True)
class LoopHooks:
    """What the loop calls."""

    validate: Callable[[int], dict[str, float]]
    """Given the step, scores on the validation split (empty without one)."""
    log: Callable[[int, dict[str, float]], None]
    say: Callable[[str], None]


def total_steps(settings: Settings, units: int, world_size: int) -> int:
    """Optimizer steps of the run: enough to see every unit ``epochs`` times."""
    if settings.max_steps:
        return settings.max_steps
    global_batch = settings.batch_size * settings.gradient_accumulation_steps * world_size
    return max(1, math.ceil(settings.epochs * units / global_batch))


def train(
    engines: Engines,
    batches: Iterator[Batch],
    settings: Settings,
    *,
    units: int,
    rank: Rank,
    flops_per_token: float,
    hooks: LoopHooks,
) -> dict[str, float]:
    """Train to the end and return the last validation scores; ``units`` are those of an epoch.

    Raises:
        TrainingStopped: after ``max_bad_steps`` steps in a row that were not finite.
    """
    steps = total_steps(settings, units, rank.world)
    global_batch = settings.batch_size * settings.gradient_accumulation_steps * rank.world
    throughput = Throughput(flops_per_token)
    running = _RunningLosses(engines.device, rank.world)
    bad_in_a_row, bad_total = 0, 0
    scores: dict[str, float] = {}
    engines.train()
    with (
        logging_redirect_tqdm(),
        tqdm(total=steps, desc="training", unit="step", disable=rank.index != 0) as bar,
    ):
        for step in range(steps):
            epoch = step * global_batch / units
            factor = learning_rate_factor(step, steps, settings.warmup_ratio, settings.min_lr_ratio)
            result, row_ids = _step(engines, batches, settings, epoch, factor, running, throughput)
            bar.update()

            bad_in_a_row = 0 if result.applied else bad_in_a_row + 1
            if not result.applied:
                bad_total += 1
                hooks.say(f"step {step + 1} was skipped: a loss or gradient was not finite")
            if bad_in_a_row >= settings.max_bad_steps:
                raise TrainingStopped(
                    f"{bad_in_a_row} steps in a row were not finite (--max_bad_steps); rank "
                    f"{rank.index}'s last samples: {', '.join(row_ids)}"
                )
            if (step + 1) % settings.log_every == 0 or step + 1 == steps:
                losses = running.read()
                hooks.log(
                    step + 1,
                    {
                        "epoch": epoch,
                        **losses,
                        "grad_norm": result.gradient_norm,
                        "grad_norm_mllm": result.mllm_norm,
                        "grad_norm_seg": result.segmentation_norm,
                        "learning_rate": settings.learning_rate * factor,
                        "skipped_steps": bad_total,
                        **throughput.read(rank.world),
                    },
                )
                bar.set_postfix_str(
                    f"loss {losses['loss']:.3f} (mask {losses['loss_seg']:.3f}, "
                    f"text {losses['loss_txt']:.3f})"
                )
            if _ends_epoch(step, global_batch, units) or step + 1 == steps:
                scores = hooks.validate(step + 1)
                if scores:
                    hooks.log(step + 1, scores)
                    hooks.say(
                        f"step {step + 1}: validation Dice {scores['val_dice']:.4f}, "
                        f"IoU {scores['val_iou']:.4f}, text loss {scores['val_loss_txt']:.4f}"
                    )
                throughput.restart()
    return scores


def _step(
    engines: Engines,
    batches: Iterator[Batch],
    settings: Settings,
    epoch: float,
    rate_factor: float,
    running: _RunningLosses,
    throughput: Throughput,
) -> tuple[StepResult, list[str]]:
    """One optimizer step; what it did, and the rows that this process saw in it."""
    row_ids: list[str] = []
    for _ in range(settings.gradient_accumulation_steps):
        batch = next(batches).to(engines.device)
        terms = loss_terms(engines.forward(batch), batch, settings)
        loss = terms.total(settings, epoch, batch)
        engines.backward(loss)
        result = engines.step(rate_factor)
        row_ids += batch.row_ids
        means = (
            weighted_mean(term, batch) for term in (terms.segmentation, terms.text, terms.modality)
        )
        running.add(loss, *means)
        throughput.count(len(batch), batch.input_ids.numel())
    assert result is not None, "accumulation ended without a step"
    return result, row_ids


def _ends_epoch(step: int, global_batch: int, units: int) -> bool:
    return (step + 1) * global_batch // units > step * global_batch // units


class _RunningLosses:
    """Means of the losses over all samples since the last reading, kept on the device."""

    def __init__(self, device: torch.device, world_size: int) -> None:
        self._world_size = world_size
        self._sums = torch.zeros(len(LOSS_NAMES), dtype=torch.float64, device=device)
        self._batches = 0

    def add(self, *losses: torch.Tensor) -> None:
        self._sums += torch.stack([loss.detach() for loss in losses]).double()
        self._batches += 1

    def read(self) -> dict[str, float]:
        means = sum_over_ranks(self._sums.clone()) / (self._batches * self._world_size)
        self._sums.zero_()
        self._batches = 0
        return dict(zip(LOSS_NAMES, means.tolist(), strict=True))
