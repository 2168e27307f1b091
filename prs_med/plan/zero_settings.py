"""What a plan takes from a DeepSpeed configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class ZeroSettings:
    """The language model's engine; defaults are DeepSpeed's (0.19)."""

    name: str
    """Of the file."""
    stage: int
    offload_optimizer: bool
    """Masters and moments lie in the host's memory."""
    offload_parameters: bool
    """So do the weights, in stage 3."""
    gradient_bytes: int
    """Of one element of the accumulated gradients."""
    reduce_bucket: int
    """Elements of the buffer that gradients are summed in."""
    buckets: int
    """Such buffers: two where communication overlaps with computation."""
    prefetch: int
    """Elements of weights that are fetched ahead, in stage 3."""
    max_live: int
    """Most elements of weights that are whole at a time, in stage 3."""
    persistence: int
    """Parameters of so many elements or fewer stay whole, in stage 3."""


def zero_settings(name: str, config: Mapping[str, Any], weight_bytes: int) -> ZeroSettings:
    """From a configuration that :func:`load_deepspeed_config` has completed.

    Args:
        weight_bytes: of one element of the weights that are computed with.
    """
    zero = config["zero_optimization"]
    stage = zero["stage"]
    accumulated = config.get("data_types", {}).get("grad_accum_dtype")
    overlap = zero.get("overlap_comm", stage == 3)
    return ZeroSettings(
        name=name,
        stage=stage,
        offload_optimizer=_offloaded(zero, "offload_optimizer"),
        offload_parameters=stage == 3 and _offloaded(zero, "offload_param"),
        gradient_bytes=_BYTES[accumulated] if accumulated else weight_bytes,
        reduce_bucket=int(zero.get("reduce_bucket_size", 5e8)),
        buckets=2 if overlap and stage < 3 else 1,
        prefetch=int(zero.get("stage3_prefetch_bucket_size", 5e7)),
        max_live=int(zero.get("stage3_max_live_parameters", 1e9)),
        persistence=int(zero.get("stage3_param_persistence_threshold", 1e5)),
    )


def _offloaded(zero: Mapping[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") != "none"
