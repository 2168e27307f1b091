"""From stored pixels to network input, on the device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def normalise(
    image: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(B, 3, H, W) uint8 → float32, ``(image / 255 - mean) / std`` per channel."""
    return (image.float() / 255 - _channels(mean, image.device)) / _channels(std, image.device)


@cache
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    # Not a module buffer: DeepSpeed would round it to bf16 with the weights around it.
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
