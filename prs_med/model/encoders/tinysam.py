"""TinySAM's published file, ``tinysam_42.3.pth``: a plain state dict of the whole SAM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from prs_med.model.encoders.files import load_strictly, read_state_dict
from prs_med.model.encoders.tinyvit import TinyVit, config_from_state_dict
from prs_med.model.errors import CheckpointError

PREFIX = "image_encoder."
UNUSED = ("norm_head.", "head.")
"""The classifier that TinyViT was pre-trained with; nothing in SAM uses it."""


def load_tinysam(path: Path) -> TinyVit:
    """The image encoder of a TinySAM file.

    Raises:
        CheckpointError: if the file cannot be read, is of another family, or does not fit.
    """
    whole = read_state_dict(path)
    state = {
        name.removeprefix(PREFIX): value
        for name, value in whole.items()
        if name.startswith(PREFIX) and not name.removeprefix(PREFIX).startswith(UNUSED)
    }
    if "patch_embed.seq.0.c.weight" not in state:
        raise CheckpointError(
            f"{path}: not a TinySAM file, it has no {PREFIX}patch_embed.seq.0.c.weight; "
            f"it holds {', '.join(list(whole)[:3])}, ..."
        )
    return tinysam_from_state(state, str(path))


def tinysam_from_state(state: Mapping[str, Tensor], where: str) -> TinyVit:
    """The encoder with exactly the weights of ``state``; ``where`` names their file in errors."""
    try:
        encoder = TinyVit(config_from_state_dict(state))
    except (KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{where}: not a TinySAM encoder, {error} is missing") from None
    load_strictly(encoder, state, where)
    return encoder
