"""What the GPUs send to each other in a step, by ZeRO stage, and how long it takes.

An all-gather or reduce-scatter of S bytes among n processes brings (n-1)/n of S through every
GPU's link and every machine's adapters, an all-reduce twice that: the lower bounds that NCCL's
rings reach (nccl-tests, PERFORMANCE.md; Patarasu and Yuan 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

from prs_med.config import Settings
from prs_med.plan.hardware import LINK_LATENCY, Cluster
from prs_med.plan.model_counts import ModelCounts
from prs_med.plan.ranges import BEST, WORST, Efficiency, Range
from prs_med.plan.zero_settings import ZeroSettings

_FP32 = 4


@dataclass(frozen=True)
class Collective:
    """One kind of exchange."""

    what: str
    payload: float
    """S: bytes of the whole tensor."""
    rounds: int
    """2 for an all-reduce, else 1."""
    calls: int
    """Exchanges that the payload is spread over."""

    def sent(self, processes: int) -> float:
        """Bytes through each GPU's link."""
        return self.rounds * self.payload * (processes - 1) / processes


@dataclass(frozen=True)
class Communication:
    """All exchanges of an optimizer step."""

    collectives: tuple[Collective, ...]

    def sent(self, processes: int) -> float:
        """Bytes through each GPU's link."""
        return sum(collective.sent(processes) for collective in self.collectives)

    def seconds(self, cluster: Cluster) -> Range:
        """If nothing is computed meanwhile."""
        return Range(self._seconds(cluster, BEST), self._seconds(cluster, WORST))

    def _seconds(self, cluster: Cluster, efficiency: Efficiency) -> float:
        if cluster.gpus == 1:
            return 0.0
        rate = cluster.card.link
        hops = min(cluster.gpus, cluster.gpus_per_node) - 1
        latency = hops * LINK_LATENCY
        if cluster.nodes > 1:
            rate = min(rate, cluster.node_bandwidth)
            latency += (cluster.nodes - 1) * cluster.network.latency
        calls = sum(collective.rounds * collective.calls for collective in self.collectives)
        return self.sent(cluster.gpus) / (rate * efficiency.network) + calls * latency


def communication(
    counts: ModelCounts,
    weights: tuple[float, int],
    settings: Settings,
    zero: ZeroSettings,
) -> Communication:
    """What a step of ``--gradient_accumulation_steps`` micro-batches exchanges.

    Args:
        weights: bytes that ZeRO-3 gathers to have all of the language model once, and in how many
            tensors.
    """
    micro_batches = settings.gradient_accumulation_steps
    weight_bytes = 2 if settings.precision == "bf16" else _FP32
    names = ("CLIP tower", "projector", "language model", "LM head", "LoRA")
    trained = sum(part.trained for part in counts.parts if part.name in names)
    segmentation = sum(part.trained for part in counts.parts if part.name not in names)
    found = []
    if zero.stage == 3:
        gathered, tensors = weights
        passes = micro_batches * (2 if trained else 1)
        found.append(Collective("gather weights", passes * gathered, 1, passes * tensors))
    if trained:
        # Stage 1 sums once per step; 2 and 3 keep only their share, so they sum every time.
        times = 1 if zero.stage == 1 else micro_batches
        buckets = -(-trained // zero.reduce_bucket)
        found += [
            Collective("sum gradients", times * trained * weight_bytes, 1, times * buckets),
            Collective("spread updates", trained * weight_bytes, 1, buckets),
        ]
    buckets = -(-segmentation // zero.reduce_bucket)
    payload = segmentation * _FP32
    found += [
        # DeepSpeed's stage 1 averages whole gradients on every process.
        Collective("segmentation: sum gradients", payload, 2, buckets),
        Collective("segmentation: spread updates", payload, 1, buckets),
    ]
    return Communication(tuple(found))
