"""SAM 2's published files, ``sam2.1_hiera_{tiny,small,base_plus,large}.pt``: ``{"model": ...}``.

The encoder is a Hiera with a feature pyramid: Ravi et al. 2024 (arXiv 2408.00714), Ryali et al.
2023 (arXiv 2306.00989). The network is transformers'; only the pyramid's level of stride 16 is
computed, because only that is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

from prs_med.model.encoders.family import IMAGENET_MEAN, IMAGENET_STD, EncoderFamily
from prs_med.model.encoders.files import part_of
from prs_med.model.encoders.renaming import Renaming

MULTIPLE = 32
"""The coarsest stage has a stride of 32, and the window positions repeat every 32 pixels."""
OUT_CHANNELS = 256

PREFIX = "image_encoder."
UNUSED = (
    # Pyramid levels of stride 8 and 4, which only SAM 2's own mask decoder uses.
    f"{PREFIX}neck.convs.2.",
    f"{PREFIX}neck.convs.3.",
    # SAM 2's own prompts and masks, and its memory of earlier frames of a video.
    "sam_prompt_encoder.",
    "sam_mask_decoder.",
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_mem_embed",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)

NAMES = Renaming(
    (
        ("trunk.patch_embed.proj.", "backbone.patch_embed.projection."),
        ("trunk.blocks.#.norm1.", "backbone.blocks.#.layer_norm1."),
        ("trunk.blocks.#.norm2.", "backbone.blocks.#.layer_norm2."),
        ("trunk.blocks.#.mlp.layers.0.", "backbone.blocks.#.mlp.proj_in."),
        ("trunk.blocks.#.mlp.layers.1.", "backbone.blocks.#.mlp.proj_out."),
        ("trunk.", "backbone."),
        ("neck.convs.0.conv.", "lateral_32."),
        ("neck.convs.1.conv.", "lateral_16."),
    )
)
"""From Meta's names to those below."""

_SIZES: dict[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    # Width and blocks per stage: heads of the first stage, windows per stage, blocks that see the
    # whole image. Files do not tell these on their own.
    (96, (1, 2, 7, 2)): (1, (8, 4, 14, 7), (5, 7, 9)),  # tiny
    (96, (1, 2, 11, 2)): (1, (8, 4, 14, 7), (7, 10, 13)),  # small
    (112, (2, 3, 16, 3)): (2, (8, 4, 14, 7), (12, 16, 20)),  # base+
    (144, (2, 6, 36, 4)): (2, (8, 4, 16, 8), (23, 33, 43)),  # large
}


class Sam2Encoder(nn.Module):
    """The image encoder: (B, 3, H, W) float32, normalised, to (B, 256, H/16, W/16)."""

    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD

    def __init__(self, config: Sam2HieraDetConfig) -> None:
        super().__init__()
        self.backbone = Sam2HieraDetModel(config)
        *_, at_16, at_32 = config.embed_dim_per_stage
        self.lateral_16 = nn.Conv2d(at_16, OUT_CHANNELS, 1)
        self.lateral_32 = nn.Conv2d(at_32, OUT_CHANNELS, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Compute features.

        Raises:
            ValueError: if height or width is not a multiple of 32.
        """
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of {MULTIPLE}"
            )
        *_, at_16, at_32 = self.backbone(image).intermediate_hidden_states
        fine = self.lateral_16(at_16.permute(0, 3, 1, 2))
        coarse = self.lateral_32(at_32.permute(0, 3, 1, 2))
        return fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")


def _recognises(whole: Mapping[str, Tensor]) -> bool:
    return f"{PREFIX}trunk.patch_embed.proj.weight" in whole


def _encoder_state(whole: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    return NAMES.to_ours(part_of(whole, PREFIX, UNUSED, where))


def _build(state: Mapping[str, Tensor]) -> nn.Module:
    return Sam2Encoder(hiera_config(state))


def hiera_config(state: Mapping[str, Tensor]) -> Sam2HieraDetConfig:
    """Sizes of the backbone of a :class:`Sam2Encoder` with this state dict.

    Raises:
        KeyError: if a tensor that tells a size is missing.
        ValueError: if they are the sizes of no published model.
    """
    width = state["backbone.patch_embed.projection.weight"].shape[0]
    depth = len({k.split(".")[2] for k in state if k.startswith("backbone.blocks.")})
    # A block's channels; each stage doubles them.
    channels = [state[f"backbone.blocks.{i}.attn.proj.weight"].shape[0] for i in range(depth)]
    blocks = tuple(channels.count(width * 2**stage) for stage in range(4))
    return sized_config(width, blocks, state["backbone.pos_embed"].shape[-2:])


def sized_config(
    width: int, blocks: tuple[int, ...], background: Sequence[int]
) -> Sam2HieraDetConfig:
    """The configuration of a published backbone.

    Args:
        width: channels of the first stage.
        blocks: of each stage.
        background: height and width of the position table.

    Raises:
        ValueError: if they are the sizes of no published model.
    """
    if (width, blocks) not in _SIZES:
        raise ValueError(
            f"a SAM 2 encoder of width {width} with {blocks} blocks is not known; known are tiny, "
            "small, base+ and large"
        )
    heads, windows, whole_image = _SIZES[width, blocks]
    return Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=heads,
        blocks_per_stage=list(blocks),
        embed_dim_per_stage=[width * 2**stage for stage in range(4)],
        num_attention_heads_per_stage=[heads * 2**stage for stage in range(4)],
        window_size_per_stage=list(windows),
        global_attention_blocks=list(whole_image),
        window_positional_embedding_background_size=list(background),
    )


def _to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}": value for name, value in NAMES.to_published(state).items()}


FAMILY = EncoderFamily(
    "SAM 2 (Hiera tiny, small, base+ or large)",
    _recognises,
    _encoder_state,
    _build,
    _to_published,
)
