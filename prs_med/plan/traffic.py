"""What passes between machines and storage: samples in, checkpoints out."""

from __future__ import annotations

from dataclasses import dataclass

from prs_med.config import Settings
from prs_med.plan.hardware import Cluster
from prs_med.plan.model_counts import ModelCounts
from prs_med.plan.ranges import BEST
from prs_med.plan_config import PlanSettings

_FP32 = 4
_TRAINED_AT = 1024
"""Side in pixels that ``--loader_rate`` is about."""
_USUAL_SAMPLE_KB = 160.0
_LEAST_WORK = 0.5
"""Share of the work for a sample that does not depend on the side: reading and decoding. Measured
on one core with 512 x 512 images: 49 samples/s at side 1024, 96 at 256."""


@dataclass(frozen=True)
class Loading:
    """How fast samples can come."""

    prepared: float
    """Samples/s for one GPU that its loader processes prepare."""
    read: float
    """Samples/s for one GPU that storage delivers."""
    sample_bytes: float

    @property
    def rate(self) -> float:
        """Samples/s for one GPU: the slower of both."""
        return min(self.prepared, self.read)


def loading(settings: Settings, plan: PlanSettings, cluster: Cluster) -> Loading:
    """Of each GPU's share of its machine."""
    work = _LEAST_WORK + (1 - _LEAST_WORK) * (settings.image_size / _TRAINED_AT) ** 2
    # With no process of its own, the training process prepares samples between two steps.
    prepared = max(1, settings.num_workers) * plan.loader_rate / work
    sharing = min(cluster.gpus, cluster.gpus_per_node)
    rate = plan.s3_mb_s if (settings.data or "").startswith("s3://") else plan.disk_mb_s
    per_gpu = rate * 1e6 / sharing
    sample_bytes = (plan.sample_kb or _USUAL_SAMPLE_KB) * 1e3
    return Loading(prepared, per_gpu / sample_bytes, sample_bytes)


@dataclass(frozen=True)
class Checkpoint:
    """What a save costs."""

    size: float
    """Bytes on disk."""
    kept: float
    """Bytes of all that are kept, and one that is being written."""
    blocked: float
    """Seconds that training stands still, while each process copies its share to the host."""
    to_disk: float
    """Seconds in the background until it is in ``--save_dir``."""
    to_s3: float
    """Seconds in the background until a copy is on S3."""


def checkpoint(
    settings: Settings, plan: PlanSettings, cluster: Cluster, counts: ModelCounts
) -> Checkpoint:
    """fp32 masters and AdamW's two moments of all that is trained, and the moving average.

    See docs/checkpoint-format.md.
    """
    copies = 3 + bool(settings.ema_decay)
    size = _FP32 * (copies * counts.trained + counts.buffers)
    share = size / cluster.gpus
    return Checkpoint(
        size=size,
        # The best one, and the one under way.
        kept=size * (settings.keep_last + 2),
        blocked=share / (cluster.card.pcie * BEST.network),
        to_disk=size / (plan.disk_mb_s * 1e6),
        to_s3=size / (plan.s3_mb_s * 1e6 * cluster.nodes),
    )
