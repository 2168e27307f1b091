"""What a family of segmentation encoders must tell about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(Protocol):
    """A module from (B, 3, H, W) float32, normalised, to (B, 256, H/16, W/16)."""

    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    """Of the red, green and blue values of a pixel, scaled to 0..1."""


@dataclass(frozen=True)
class EncoderFamily:
    """How encoders of one family are recognised, made and written back."""

    title: str
    """Its name for people, such as ``SAM-Med2D (ViT with adapters)``."""

    recognises: Callable[[Mapping[str, Tensor]], bool]
    """Whether the tensors of a whole published file are of this family."""

    encoder_state: Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]
    """From a whole published file to the state dict of :attr:`build`'s module. The second argument
    names the file in errors. Raises CheckpointError if a tensor is of no known use."""

    build: Callable[[Mapping[str, Tensor]], nn.Module]
    """A module with the sizes that these weights have, its own weights still to be loaded. Raises
    KeyError naming a tensor that tells a size and is missing, ValueError for unknown sizes."""

    to_published: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """The module's state dict under the names of the published file, ``image_encoder.`` first."""
