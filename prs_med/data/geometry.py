"""How an image of any size becomes the square input of the segmentation encoder, and how what the
network draws on that square returns to the image.

All steps share one convention: a pixel is a small square, and the edges of the image are scaled to
the edges of the input. So a position p along an axis goes to p × (scaled size / source size), and
nothing moves by half a pixel on the way there or back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

PADDING = (124, 116, 104)
"""Colour of padding: ImageNet's mean, which every encoder's normalisation takes to zero (within
half a grey level). SAM, too, pads with zeros behind the normalisation."""


@dataclass(frozen=True)
class Fit:
    """The way from a source image of H × W pixels to an input of S × S pixels, and back."""

    size: int
    """S, side of the input in pixels."""

    mode: Literal["stretch", "pad"] = "stretch"
    """``stretch`` scales both sides to S and so changes the aspect ratio. ``pad`` scales the longer
    side to S and leaves black (in masks: nothing) to the right or below, on the sides that SAM pads
    too."""

    def scaled_size(self, source_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that a source of ``(H, W)`` pixels takes up in the input."""
        if self.mode == "stretch":
            return self.size, self.size
        longest = max(source_size)
        height, width = (max(1, int(side * self.size / longest + 0.5)) for side in source_size)
        return height, width

    def fit_image(self, image: Image.Image) -> Image.Image:
        """An RGB image as S × S pixels; bilinear, smoothed where it shrinks."""
        height, width = self.scaled_size((image.height, image.width))
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        if scaled.size == (self.size, self.size):
            return scaled
        square = Image.new("RGB", (self.size, self.size), PADDING)
        square.paste(scaled)
        return square

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask (H, W) uint8 of zeros and ones as (S, S) uint8 of zeros and ones.

        It is scaled as the image is and then cut at one half. Choosing the nearest pixel instead
        would shift outlines: at half the size, every output pixel would be the lower right one of
        its four. A structure too small to reach one half anywhere keeps its strongest pixel, so
        that no mask becomes empty.
        """
        height, width = self.scaled_size((mask.shape[0], mask.shape[1]))
        whole = Image.fromarray(mask * np.uint8(255))
        scaled = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)) > 127
        if mask.any() and not scaled.any():
            exact = Image.fromarray(mask.astype(np.float32))
            shares = np.asarray(exact.resize((width, height), Image.Resampling.BILINEAR))
            scaled = shares == shares.max()
        fitted = np.zeros((self.size, self.size), np.uint8)
        fitted[:height, :width] = scaled
        return fitted

    def restore(self, logits: Tensor, source_size: tuple[int, int]) -> Tensor:
        """Logits (1, 1, S, S) float32 of the input as (H, W) float32 of the source.

        Padding is cut away; the rest is scaled bilinearly, edge to edge.

        Args:
            logits: what the network drew on the input.
            source_size: (H, W) of the source image in pixels.

        Raises:
            ValueError: the logits have another shape.
        """
        if logits.shape != (1, 1, self.size, self.size):
            raise ValueError(
                f"expected logits of shape (1, 1, {self.size}, {self.size}), "
                f"got {tuple(logits.shape)}"
            )
        height, width = self.scaled_size(source_size)
        drawn = logits[:, :, :height, :width]
        return F.interpolate(drawn, size=source_size, mode="bilinear", align_corners=False)[0, 0]
