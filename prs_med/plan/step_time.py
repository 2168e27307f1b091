"""How long a step takes: every operation at the speed of what limits it, as a range.

The roofline (Williams et al. 2009): an operation takes as long as its FLOPs at the unit's rate or
its bytes at the memory's rate, whichever is longer. Kernels cannot run faster than Python starts
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prs_med.config import Settings
from prs_med.plan.communication import Communication
from prs_med.plan.hardware import Card, Cluster
from prs_med.plan.op_trace import Part, Phase, Unit
from prs_med.plan.quantised import nf4_bytes, nf4_scale_bytes
from prs_med.plan.ranges import BEST, WORST, Efficiency, Range, larger
from prs_med.plan.step_trace import StepCosts
from prs_med.plan.zero_settings import ZeroSettings

_HOST_BANDWIDTH = 25e9
"""Bytes/s of a process's share of the host's memory: an assumption (eight channels of DDR4-3200
are 205 GB/s, shared by eight processes)."""
_ADAM_TRAFFIC = 7 * 4
"""Bytes per element of AdamW: gradient, master and two moments read, three of them written."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step, by what takes them."""

    compute: Range
    """Kernels of all micro-batches."""
    launches: Range
    """Python starting them; happens at the same time."""
    optimizer: Range
    transfers: Range
    """Between GPU and host, where something is offloaded."""
    communication: Range
    """If nothing is computed meanwhile."""

    @property
    def total(self) -> Range:
        """At best communication hides behind the computation, at worst not at all."""
        busy = larger(self.compute, self.launches)
        rest = self.optimizer + self.transfers
        hidden = max(0.0, self.communication.best - busy.best)
        return busy + rest + Range(hidden, self.communication.worst)


def step_time(
    costs: StepCosts,
    batch: int,
    settings: Settings,
    zero: ZeroSettings,
    cluster: Cluster,
    exchange: Communication,
    shares: tuple[int, int],
    quantisable: tuple[tuple[int, int], ...],
    offloaded_weights: float,
) -> StepTime:
    """Of a step whose micro-batches have ``batch`` units.

    Args:
        shares: elements that one process updates, of the language model and of the segmentation
            side.
        quantisable: sizes of the layers that ``--load_4bit`` unpacks.
        offloaded_weights: bytes that a pass brings from the host with offloaded weights.
    """
    micro_batches = settings.gradient_accumulation_steps
    unpacking = _unpacked_bytes(settings, costs, quantisable)
    mllm, segmentation = shares
    passes = 2 if mllm else 1
    units = units_of(costs.first.unit, costs.first.part, settings.segmentation_precision)

    def of(efficiency: Efficiency) -> tuple[float, float, float, float]:
        card = cluster.card
        memory = card.bandwidth * efficiency.memory
        compute = kernel_seconds(costs, batch, card, efficiency, units) + unpacking / memory
        on_gpu = segmentation if zero.offload_optimizer else mllm + segmentation
        optimizer = on_gpu * _ADAM_TRAFFIC / memory
        pcie = card.pcie * efficiency.network
        transfers = 0.0
        if zero.offload_optimizer:
            optimizer += mllm * _ADAM_TRAFFIC / (_HOST_BANDWIDTH * efficiency.memory)
            transfers += mllm * 8 / pcie
        if zero.offload_parameters:
            transfers += micro_batches * passes * offloaded_weights / pcie
        launches = costs.kernels() * efficiency.launch
        return micro_batches * compute, micro_batches * launches, optimizer, transfers

    best, worst = of(BEST), of(WORST)
    compute, launches, optimizer, transfers = (
        Range(low, high) for low, high in zip(best, worst, strict=True)
    )
    return StepTime(compute, launches, optimizer, transfers, exchange.seconds(cluster))


def units_of(traced: np.ndarray, part: np.ndarray, segmentation_precision: str) -> np.ndarray:
    """The :class:`Unit` that does each operation, from what a trace in fp32 says and its
    :class:`Part`. What is moved is taken as that of fp32."""
    units = traced.copy()
    if segmentation_precision == "tf32":
        units[units == Unit.FP32] = Unit.TF32
    elif segmentation_precision == "bf16":
        units[np.isin(part, (Part.ENCODER, Part.DECODER))] = Unit.BF16
    return units


def kernel_seconds(
    costs: StepCosts,
    batch: int,
    card: Card,
    efficiency: Efficiency,
    units: np.ndarray,
    part: Part | None = None,
) -> float:
    """Seconds of a micro-batch's kernels, one after the other, or of those of one ``part`` alone;
    ``units`` as of :func:`units_of`."""
    of_all = costs.first.part
    seconds = operation_seconds(
        of_all, costs.flops(batch), costs.moved(batch), card, efficiency, units
    )
    return float(seconds[slice(None) if part is None else of_all == part].sum())


def operation_seconds(
    part: np.ndarray,
    flops: np.ndarray,
    moved: np.ndarray,
    card: Card,
    efficiency: Efficiency,
    units: np.ndarray,
) -> np.ndarray:
    """Of each operation: its :class:`Part`, FLOPs, bytes moved and :class:`Unit` are given."""
    rates = np.array([card.bf16, card.tf32, card.fp32])[units]
    segmentation = np.isin(part, (Part.ENCODER, Part.DECODER, Part.LOSSES))
    reached = np.where(segmentation, efficiency.segmentation, 1.0)
    computing = flops / (rates * efficiency.compute * reached)
    moving = moved / (card.bandwidth * efficiency.memory * reached)
    return np.maximum(computing, moving)


def _unpacked_bytes(
    settings: Settings, costs: StepCosts, quantisable: tuple[tuple[int, int], ...]
) -> float:
    """Bytes moved to unpack 4-bit weights for each pass of a micro-batch: read packed, written
    whole. What then reads them is counted as without quantisation."""
    if not settings.load_4bit:
        return 0.0
    packed = nf4_bytes(quantisable) + nf4_scale_bytes(quantisable)
    whole = 2 * sum(rows * columns for rows, columns in quantisable)
    recomputes = bool((costs.first.phase == Phase.RECOMPUTE).any())
    passes = 1 + recomputes + (not settings.freeze_mllm)
    return float(passes * (packed + whole))
