"""Changes to a predicted mask that the user asks for; none by default."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class PostProcessing:
    """What is done to each mask, in this order."""

    fill_holes: bool = False
    """Fill what the mask surrounds."""
    largest_component: bool = False
    """Keep only the largest of the parts that hang together (8 neighbours)."""
    minimum_area: int = 0
    """Remove parts of fewer pixels."""

    @property
    def text(self) -> str:
        """In words, for reports; empty if nothing is done."""
        parts = [
            *(["holes filled"] if self.fill_holes else []),
            *(["largest component"] if self.largest_component else []),
            *([f"components of {self.minimum_area} pixels or more"] if self.minimum_area else []),
        ]
        return ", ".join(parts)

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """The changed copy of a (H, W) bool mask; an empty one stays empty."""
        if self.fill_holes:
            mask = ndimage.binary_fill_holes(mask)
        if self.largest_component or self.minimum_area:
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
            sizes = np.bincount(labels.ravel(), minlength=count + 1)
            sizes[0] = 0
            kept = sizes >= max(1, self.minimum_area)
            if self.largest_component and count:
                kept &= np.arange(count + 1) == sizes.argmax()
            mask = kept[labels]
        return mask
