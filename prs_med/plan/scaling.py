"""The same training on more and more GPUs, and what limits it at each number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prs_med.plan.candidates import Candidate
from prs_med.plan.hardware import Cluster
from prs_med.plan.ranges import Range
from prs_med.plan.traffic import Loading, loading

MOST_GPUS = 1024


@dataclass(frozen=True)
class ScalingPoint:
    """One number of GPUs, with the same micro-batch on each."""

    gpus: int
    nodes: int
    fits: bool
    """Whether the micro-batch fits: ZeRO-3 needs several GPUs to spread weights over."""
    step: Range
    """Seconds."""
    speed: Range
    """Samples/s."""
    efficiency: float
    """Samples/s of each GPU, as a share of those of one GPU alone."""
    global_batch: int
    steps_per_epoch: int
    communication: Range
    """Seconds of a step, if nothing is computed meanwhile."""
    bottleneck: str


def scaling(
    candidate: Candidate, batch: int, cluster: Cluster, samples: int
) -> tuple[ScalingPoint, ...]:
    """For 1, 2, 4, ... GPUs and for those of ``cluster``; with ``--global_batch_size`` while each
    has a unit."""
    wanted = candidate.settings.global_batch_size
    points: list[ScalingPoint] = []
    for gpus in _numbers(cluster.gpus):
        if wanted and gpus > wanted:
            break
        dealt, micro_batch = dealt_out(candidate, batch, gpus)
        alone = points[0].speed.middle if points else None
        points.append(scaling_point(dealt, micro_batch, cluster.of(gpus), samples, alone))
    return tuple(points)


def dealt_out(candidate: Candidate, batch: int, gpus: int) -> tuple[Candidate, int]:
    """The candidate and micro-batch with which so many GPUs take ``--global_batch_size`` units in a
    step, or a few more where these cannot be dealt out evenly; as they are without that setting."""
    wanted = candidate.settings.global_batch_size
    if wanted is None:
        return candidate, batch
    each = math.ceil(wanted / gpus)
    accumulation = math.ceil(each / batch)
    settings = replace(
        candidate.settings, global_batch_size=None, gradient_accumulation_steps=accumulation
    )
    return replace(candidate, settings=settings), math.ceil(each / accumulation)


def _numbers(wanted: int) -> Iterator[int]:
    powers = [2**exponent for exponent in range(MOST_GPUS.bit_length())]
    yield from sorted({*powers, wanted})


def scaling_point(
    candidate: Candidate, batch: int, cluster: Cluster, samples: int, alone: float | None
) -> ScalingPoint:
    """One number of GPUs; ``alone`` is the speed of one GPU, in samples/s."""
    time = candidate.step(batch, cluster)
    each = candidate.samples(batch)
    loads = loading(candidate.settings, candidate.plan, cluster)
    waiting = each / loads.rate
    step = Range(max(time.total.best, waiting), max(time.total.worst, waiting))
    speed = step.over(each * cluster.gpus)
    limits = {
        "compute": time.compute.middle,
        "starting kernels: batch too small": time.launches.middle,
        "communication": time.communication.middle,
        "offloading": (time.optimizer + time.transfers).middle,
        _slower(loads): waiting,
    }
    memory = candidate.memory(cluster.gpus).at(batch).total
    return ScalingPoint(
        gpus=cluster.gpus,
        nodes=cluster.nodes,
        fits=memory <= cluster.card.memory,
        step=step,
        speed=speed,
        efficiency=speed.middle / cluster.gpus / (alone or speed.middle),
        global_batch=each * cluster.gpus,
        steps_per_epoch=math.ceil(samples / (each * cluster.gpus)),
        communication=time.communication,
        bottleneck=max(limits, key=lambda name: limits[name]),
    )


def _slower(loads: Loading) -> str:
    return "loader processes" if loads.prepared < loads.read else "reading from storage"
