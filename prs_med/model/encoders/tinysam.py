"""TinySAM's published file, ``tinysam_42.3.pth``: a plain state dict of the whole SAM."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from prs_med.model.encoders.family import EncoderFamily
from prs_med.model.encoders.files import part_of
from prs_med.model.encoders.tinyvit import TinyVit, config_from_state_dict

PREFIX = "image_encoder."
UNUSED = (
    # The classifier that TinyViT was pre-trained with; nothing in SAM uses it.
    f"{PREFIX}norm_head.",
    f"{PREFIX}head.",
    # SAM's own prompts and masks; PRS-Med has others.
    "prompt_encoder.",
    "mask_decoder.",
)


def _recognises(whole: Mapping[str, Tensor]) -> bool:
    return f"{PREFIX}patch_embed.seq.0.c.weight" in whole


def _encoder_state(whole: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    return part_of(whole, PREFIX, UNUSED, where)


def _build(state: Mapping[str, Tensor]) -> nn.Module:
    return TinyVit(config_from_state_dict(state))


def _to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}": value for name, value in state.items()}


FAMILY = EncoderFamily("TinySAM (TinyViT)", _recognises, _encoder_state, _build, _to_published)
