"""SAM's published files, ``sam_vit_{b,l,h}_*.pth``: a plain state dict of the whole model."""

from __future__ import annotations

from prs_med.model.encoders.sam_vit import sam_family

FAMILY = sam_family("SAM (ViT-B, -L or -H)", adapted=False)
