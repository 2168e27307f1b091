"""From settings to a plan: all its figures, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prs_med.config import Settings
from prs_med.data.dataset.index import read_index
from prs_med.plan.candidates import Candidate, Workload, candidates, workload
from prs_med.plan.checkpointing import NOTHING, Checkpointing
from prs_med.plan.hardware import CARDS, COMPARED, Cluster, cluster
from prs_med.plan.model_counts import PartCount
from prs_med.plan.op_trace import Phase
from prs_med.plan.ranges import Range
from prs_med.plan.recommend import Recommendation, recommend
from prs_med.plan.scaling import ScalingPoint, dealt_out, scaling, scaling_point
from prs_med.plan.step_time import StepTime
from prs_med.plan.traffic import Checkpoint, Loading, checkpoint, loading
from prs_med.plan_config import PlanSettings
from prs_med.storage.location import open_store

POSMED_QUESTIONS = 116_000
"""Question-answer pairs of PosMed in all (arXiv 2505.11872)."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one sample in one part."""

    part: str
    forward: float
    backward: float
    recomputed: float
    """With ``--gradient_checkpointing`` or ``--encoder_checkpointing`` alone."""


@dataclass(frozen=True)
class Fit:
    """One way to train, and what it needs and allows."""

    config: str
    base: str
    checkpointing: Checkpointing
    lasting: float
    """Bytes of one process besides activations and the allowances."""
    sample: float
    """Bytes of activations for each further unit of a micro-batch."""
    host: float
    """Bytes of the host's memory for one process."""
    largest: Mapping[str, int]
    """By card: the largest micro-batch that fits; 0 if none does."""


@dataclass(frozen=True)
class Run:
    """One way to train, with a micro-batch, in detail."""

    config: str
    base: str
    checkpointing: Checkpointing
    batch: int
    largest: int
    memory: Mapping[str, float]
    """Bytes of one process, by part."""
    host: float
    step: StepTime
    seconds: Range
    """Of an optimizer step."""
    tf32_speedup: Range | None
    """What ``--segmentation_precision tf32`` would make of the speed, as a factor; None if the
    segmentation side does not compute in fp32."""
    speed: Range
    """Samples/s of all GPUs, as fast as samples come."""
    mfu: Range
    """Share of all GPUs' bf16 peak that FLOPs without recomputing make up."""
    sent: Mapping[str, float]
    """Bytes through each GPU's link in a step, by exchange."""
    bottleneck: str
    hours: Range
    cost: Range | None
    """In the currency of ``--price``."""


@dataclass(frozen=True)
class Plan:
    """Everything that a report shows."""

    gpu: str
    gpus: int
    nodes: int
    memory: int
    """Bytes of a GPU."""
    tokens: int
    """Of the longest sequence of a micro-batch."""
    samples: int
    epochs: float
    max_steps: int
    """0 after ``epochs``, else training ends after so many optimizer steps."""
    parts: tuple[PartCount, ...]
    work: tuple[Work, ...]
    fits: tuple[Fit, ...]
    recommended: Run | None
    """None if nothing fits."""
    configured: Run | None
    """The settings exactly as given, if they name a DeepSpeed configuration."""
    loading: Loading
    checkpoint: Checkpoint
    scaling: tuple[ScalingPoint, ...]


def make_plan(
    settings: Settings, plan: PlanSettings, configs: Mapping[str, Mapping[str, Any]]
) -> Plan:
    """All figures for training with these settings.

    Args:
        configs: DeepSpeed configurations to choose from, by name, the simplest first, each
            completed by :func:`prs_med.train.deepspeed_config.load_deepspeed_config`.

    Raises:
        SettingError, CheckpointError, DataError, StorageError: with a message for the user.
    """
    machines = cluster(plan)
    plan = _with_dataset(settings, plan)
    samples = plan.samples or POSMED_QUESTIONS
    work = workload(settings, plan)
    found = list(candidates(settings, plan, configs, work))
    best = recommend(found, machines, plan.largest_batch)
    return Plan(
        gpu=machines.card.name,
        gpus=machines.gpus,
        nodes=machines.nodes,
        memory=machines.card.memory,
        tokens=work.lengths.shared if settings.share_image_prefix else work.lengths.total,
        samples=samples,
        epochs=settings.epochs,
        max_steps=settings.max_steps,
        parts=work.counts.parts,
        work=_work(work),
        fits=tuple(_fit(candidate, machines) for candidate in found),
        recommended=_run(best, machines, samples) if best else None,
        configured=_configured(settings, found, machines, samples),
        loading=loading(settings, plan, machines),
        checkpoint=checkpoint(settings, plan, machines, work.counts),
        scaling=scaling(best.candidate, best.batch, machines, samples) if best else (),
    )


def _with_dataset(settings: Settings, plan: PlanSettings) -> PlanSettings:
    """What the dataset in ``--data`` says, where the settings say nothing."""
    if not settings.data or (plan.samples and plan.sample_kb):
        return plan
    split = read_index(open_store(settings.data)).split("train")
    size = sum(shard.size for shard in split.shards)
    return replace(
        plan,
        samples=plan.samples or split.targets,
        sample_kb=plan.sample_kb or size / split.targets / 1e3,
    )


def _work(work: Workload) -> tuple[Work, ...]:
    units = 2
    plain = work.costs[NOTHING].flops_by(units)
    again = [costs.flops_by(units) for costs in work.costs.values()]
    return tuple(
        Work(
            part.title,
            phases[Phase.FORWARD] / units,
            phases[Phase.BACKWARD] / units,
            max(each[part][Phase.RECOMPUTE] for each in again) / units,
        )
        for part, phases in plain.items()
    )


def _fit(candidate: Candidate, machines: Cluster) -> Fit:
    memory = candidate.memory(machines.gpus)
    names = dict.fromkeys((*COMPARED, machines.card.name))
    return Fit(
        config=candidate.zero.name,
        base=candidate.base,
        checkpointing=candidate.checkpointing,
        lasting=sum(
            size
            for name, size in memory.at(1).parts.items()
            if not name.startswith(("activations", "allowance"))
        ),
        sample=memory.at(3).total - memory.at(2).total,
        host=memory.host(),
        largest={name: memory.largest_batch(CARDS[name].memory) for name in names},
    )


def _configured(
    settings: Settings, found: list[Candidate], machines: Cluster, samples: int
) -> Run | None:
    same = [candidate for candidate in found if candidate.settings == settings]
    if not settings.deepspeed or not same:
        return None
    largest = same[0].largest_batch(machines.card.memory, machines.gpus)
    candidate = replace(same[0], settings=settings.for_processes(machines.gpus))
    return _run(Recommendation(candidate, settings.batch_size, largest), machines, samples)


def _run(chosen: Recommendation, machines: Cluster, samples: int) -> Run:
    candidate, batch = dealt_out(chosen.candidate, chosen.batch, machines.gpus)
    plan, settings = candidate.plan, candidate.settings
    memory = candidate.memory(machines.gpus)
    point = scaling_point(candidate, batch, machines, samples, None)
    seen = settings.max_steps * point.global_batch or samples * settings.epochs
    hours = point.speed.over(seen / 3600)
    price = None if plan.price is None else plan.price * machines.gpus
    useful = candidate.work.costs[NOTHING].flops(batch).sum() * settings.gradient_accumulation_steps
    return Run(
        config=candidate.zero.name,
        base=candidate.base,
        checkpointing=candidate.checkpointing,
        batch=batch,
        largest=chosen.largest,
        memory=memory.at(batch).parts,
        host=memory.host(),
        step=candidate.step(batch, machines),
        tf32_speedup=_tf32_speedup(candidate, batch, machines),
        seconds=point.step,
        speed=point.speed,
        mfu=point.step.over(float(useful) / machines.card.bf16),
        sent={
            collective.what: collective.sent(machines.gpus)
            for collective in candidate.communication(machines.gpus).collectives
        },
        bottleneck=point.bottleneck,
        hours=hours,
        cost=None if price is None else hours.times(price),
    )


def _tf32_speedup(candidate: Candidate, batch: int, machines: Cluster) -> Range | None:
    if candidate.settings.segmentation_precision != "fp32":
        return None
    settings = replace(candidate.settings, segmentation_precision="tf32")
    before = candidate.step(batch, machines).total
    after = replace(candidate, settings=settings).step(batch, machines).total
    return Range(before.best / after.best, before.worst / after.worst)
