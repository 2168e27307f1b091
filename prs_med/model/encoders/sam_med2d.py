"""SAM-Med2D's published file, ``sam-med2d_b.pth``: ``{"model": state dict of the whole model}``."""

from __future__ import annotations

from prs_med.model.encoders.sam_vit import sam_family

FAMILY = sam_family("SAM-Med2D (ViT with adapters)", adapted=True)
