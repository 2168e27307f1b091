"""The training loop: forward, loss, backward, step, and what happens between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.data.order import Rank
from prs_med.model.objective import loss_terms, weighted_mean
from prs_med.train.bad_steps import BadStep, LossSpikes, RollBack, batch_of_step
from prs_med.train.distributed import gathered, sum_over_ranks
from prs_med.train.engines import Engines, StepResult
from prs_med.train.heartbeat import Heartbeat
from prs_med.train.progress import Progress, RunningLosses
from prs_med.train.rank_times import RankSeconds, RankTimes
from prs_med.train.schedule import learning_rate_factor
from prs_med.train.throughput import Throughput
from prs_med.train.validation import ValidationStopped


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to look at."""


@dataclass(frozen=True)
class LoopHooks:
    """What the loop calls."""

    validates: bool
    """Whether there is something to validate on."""
    validate: Callable[[int], dict[str, float]]
    """Given the step, scores on the validation split; raises :class:`ValidationStopped`."""
    log: Callable[[int, dict[str, float]], None]
    say: Callable[[str], None]
    before_validation: Callable[[int], str]
    """Given the step; a reason to end before the last step, or nothing. So the next two."""
    after_validation: Callable[[int], str]
    after_step: Callable[[int], str]
    """After a step without a validation."""
    log_ranks: Callable[[int, RankSeconds], None]
    """Given the step, how long each process took."""
    bad_step: Callable[[BadStep, str], None]
    """Given a bad step and what becomes of it."""


@dataclass(frozen=True)
class _Gauges:
    """What measures a step while it is done."""

    throughput: Throughput
    times: RankTimes
    heartbeat: Heartbeat
    spikes: LossSpikes


@dataclass(frozen=True)
class _Done:
    """A step that was done."""

    result: StepResult
    row_ids: list[str]
    """The rows that this process saw."""
    loss: float | None
    """Mean over the step's samples, where jumps are looked for."""
    spike: bool


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
    progress: Progress,
    heartbeat: Heartbeat,
) -> str:
    """Train from where ``progress`` stands to the end; ``units`` are those of an epoch.

    Returns:
        Why a hook wanted to end before; empty if training is complete.

    Raises:
        RollBack: under ``on_bad_step`` rollback, at a bad step.
        TrainingStopped: at a bad step, as ``on_bad_step`` and ``max_bad_steps`` say.
    """
    steps = total_steps(settings, units, rank.world)
    global_batch = settings.batch_size * settings.gradient_accumulation_steps * rank.world
    throughput = Throughput(flops_per_token)
    spikes = LossSpikes(settings.loss_spike, progress.recent_losses)
    gauges = _Gauges(throughput, RankTimes(engines.device, rank), heartbeat, spikes)
    stall, logged_at = 0.0, progress.step

    def validation_is_due() -> bool:
        ends = _ends_epoch(progress.step - 1, global_batch, units) or progress.step == steps
        return hooks.validates and progress.step > 0 and ends

    engines.train()
    if validation_is_due() and progress.scored_at != progress.step:
        # The run was asked to end in the midst of it.
        stopped_by, _ = _save_and_validate(progress, hooks, heartbeat, validation=True)
        if stopped_by:
            return stopped_by
    with (
        logging_redirect_tqdm(),
        tqdm(
            total=steps,
            initial=progress.step,
            desc="training",
            unit="step",
            disable=rank.index != 0,
        ) as bar,
    ):
        for step in range(progress.step, steps):
            epoch = step * global_batch / units
            factor = learning_rate_factor(step, steps, settings.warmup_ratio, settings.min_lr_ratio)
            done = _step(
                engines, batches, settings, rank, step, epoch, factor, progress.losses, gauges
            )
            bar.update()
            progress.step = step + 1
            progress.recent_losses = spikes.losses
            _judge(done, progress, settings, rank, hooks)

            if progress.step % settings.log_every == 0 or progress.step == steps:
                heartbeat.enter("writing the log", progress.step)
                losses = progress.losses.read()
                seconds = gauges.times.read(progress.step - logged_at)
                logged_at = progress.step
                hooks.log_ranks(progress.step, seconds)
                hooks.log(
                    progress.step,
                    {
                        "epoch": epoch,
                        **losses,
                        "grad_norm": done.result.gradient_norm,
                        "grad_norm_mllm": done.result.mllm_norm,
                        "grad_norm_seg": done.result.segmentation_norm,
                        "learning_rate": settings.learning_rate * factor,
                        "skipped_steps": progress.bad_total,
                        **throughput.read(rank.world),
                        **seconds.metrics(),
                        "checkpoint_stall_s": stall,
                    },
                )
                stall = 0.0
                bar.set_postfix_str(
                    f"loss {losses['loss']:.3f} (mask {losses['loss_seg']:.3f}, "
                    f"text {losses['loss_txt']:.3f})"
                )
            due = validation_is_due()
            stopped_by, saving = _save_and_validate(progress, hooks, heartbeat, validation=due)
            stall += saving
            if due:
                throughput.restart()
            if stopped_by:
                return stopped_by
    return ""


def _judge(
    done: _Done, progress: Progress, settings: Settings, rank: Rank, hooks: LoopHooks
) -> None:
    """Take note of a good step, and see to a bad one.

    Raises:
        RollBack: the run is to go back.
        TrainingStopped: it is to stop.
    """
    if done.result.applied:
        if progress.step > progress.bad_at:
            progress.bad_in_a_row = 0
        return
    progress.bad_in_a_row += 1
    progress.bad_total += 1
    progress.bad_at = max(progress.bad_at, progress.step)
    bad = BadStep(
        step=progress.step,
        batch=batch_of_step(progress.step - 1, progress.skipped_batches),
        cause="the loss jumped" if done.spike else "a loss or gradient was not finite",
        loss=done.loss,
        row_ids=gathered(done.row_ids),
    )
    stop = settings.on_bad_step == "stop" or progress.bad_in_a_row >= settings.max_bad_steps
    hooks.bad_step(bad, "stopped" if stop else settings.on_bad_step)
    if stop:
        many = (
            f"{progress.bad_in_a_row} bad steps without a good one (--max_bad_steps), the last: "
            if progress.bad_in_a_row > 1
            else ""
        )
        raise TrainingStopped(
            f"{many}step {bad.step}: {bad.cause}; rank {rank.index}'s samples: "
            f"{', '.join(done.row_ids)}"
        )
    if settings.on_bad_step == "rollback":
        raise RollBack(bad)


def _save_and_validate(
    progress: Progress, hooks: LoopHooks, heartbeat: Heartbeat, *, validation: bool
) -> tuple[str, float]:
    """What follows a step; a reason to end, if there is one, and the seconds that saving took.

    A validation may take long, and be killed: what it is about is saved before it.
    """
    heartbeat.enter("saving", progress.step)
    begun = time.monotonic()
    if not validation:
        stopped_by = hooks.after_step(progress.step)
        return stopped_by, time.monotonic() - begun
    stopped_by = hooks.before_validation(progress.step)
    seconds = time.monotonic() - begun
    if stopped_by:
        return stopped_by, seconds
    heartbeat.enter("validating", progress.step)
    try:
        _validate(progress, hooks)
    except ValidationStopped as stopped:
        return str(stopped), seconds
    heartbeat.enter("saving", progress.step)
    begun = time.monotonic()
    stopped_by = hooks.after_validation(progress.step)
    return stopped_by, seconds + time.monotonic() - begun


def _validate(progress: Progress, hooks: LoopHooks) -> None:
    """Score the weights, and say how good they are."""
    scores = hooks.validate(progress.step)
    progress.scores, progress.scored_at = scores, progress.step
    hooks.log(progress.step, scores)
    zones = scores.get("val_zone_accuracy")
    hooks.say(
        f"step {progress.step}: validation Dice {scores['val_dice']:.4f}, "
        f"IoU {scores['val_iou']:.4f}, text loss {scores['val_loss_txt']:.4f}"
        + ("" if zones is None else f", zone of answers right {zones:.3f}")
    )


def _seed_dropout(seed: int, step: int, part: int, rank: Rank) -> None:
    """Make dropout a function of the micro-batch's place in training, so that there is no state of
    random numbers to save."""
    sequence = np.random.SeedSequence((seed, step, part, rank.index))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _step(
    engines: Engines,
    batches: Iterator[Batch],
    settings: Settings,
    rank: Rank,
    step: int,
    epoch: float,
    rate_factor: float,
    running: RunningLosses,
    gauges: _Gauges,
) -> _Done:
    """One optimizer step."""
    row_ids: list[str] = []
    summed = torch.zeros((), device=engines.device)
    loss_of_step, spike = None, False
    enter = gauges.heartbeat.enter
    for part in range(settings.gradient_accumulation_steps):
        enter("waiting for data", step)
        with gauges.times.data():
            batch = next(batches).to(engines.device)
        # After the loader, which draws random numbers when it starts.
        _seed_dropout(settings.seed, step, part, rank)
        enter("in the forward pass", step)
        with gauges.times.forward():
            terms = loss_terms(engines.forward(batch), batch, settings)
            loss = terms.total(settings, epoch, batch)
        enter("in the backward pass", step)
        engines.backward(loss)
        enter("in the optimizer step", step)
        summed += loss.detach()
        if gauges.spikes.wanted and part + 1 == settings.gradient_accumulation_steps:
            loss_of_step = float(sum_over_ranks(summed)) / (part + 1) / rank.world
            spike = gauges.spikes.is_spike(loss_of_step)
        result = engines.step(rate_factor, veto=spike)
        row_ids += batch.row_ids
        means = (
            weighted_mean(term, batch) for term in (terms.segmentation, terms.text, terms.modality)
        )
        running.add(settings.batch_size, loss, *means)
        gauges.throughput.count(len(batch), batch.input_ids.numel())
    assert result is not None, "accumulation ended without a step"
    if result.applied and loss_of_step is not None:
        gauges.spikes.remember(loss_of_step)
    return _Done(result, row_ids, loss_of_step, spike)


def _ends_epoch(step: int, global_batch: int, units: int) -> bool:
    return (step + 1) * global_batch // units > step * global_batch // units
