"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def learning_rate_factor(
    step: int, total_steps: int, warmup_ratio: float, min_ratio: float
) -> float:
    """Share of the peak learning rate at ``step`` (counted from 0): a linear rise over the first
    ``warmup_ratio`` of all steps, then half a cosine down to ``min_ratio``."""
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
