"""Settings of trainings that take seconds: small images, few samples, every step logged."""

from __future__ import annotations

from collections.abc import Sequence

WITHOUT_DROPOUT = ("--lora_dropout", "0", "--decoder_dropout", "0")
"""Each process draws its own, so that with other processes it would be another training."""


def short(sources: Sequence[str], *more: str, config: int | str = 2) -> list[str]:
    """Settings of ``launch/train.py``; ``more`` says how long, and counts where it names others.

    Args:
        sources: data and weights, such as ``small.arguments()``.
        config: of ``ds_configs/zero2.json``, ... what stands behind ``zero``.
    """
    return [
        *sources,
        *("--deepspeed", f"ds_configs/zero{config}.json"),
        *("--image_size", "64", "--num_workers", "0", "--batch_size", "2", "--log_every", "1"),
        *more,
    ]
