"""The sizes of the published models, for plans without their weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig, SamVisionConfig

from prs_med.checked_settings import SettingError
from prs_med.model.encoders.sam2 import Sam2Encoder, sized_config
from prs_med.model.encoders.sam_vit import WINDOW, SamVit
from prs_med.model.encoders.tinyvit import TinyVit
from prs_med.model.llava_layouts import CLIP_MEAN, CLIP_STD, LlavaLayout


def published_clip() -> CLIPVisionConfig:
    """CLIP-L/14 at 336 pixels: config.json of openai/clip-vit-large-patch14-336."""
    return CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        hidden_act="quick_gelu",
        projection_dim=768,
    )


def published_layout() -> LlavaLayout:
    """LLaVA-Med v1.5: config.json of microsoft/llava-med-v1.5-mistral-7b."""
    text = MistralConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=32768,
        sliding_window=None,
        rms_norm_eps=1e-5,
    )
    config = LlavaConfig(
        vision_config=published_clip(),
        text_config=text,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
    return described(config)


def described(config: LlavaConfig) -> LlavaLayout:
    """A layout without files: sizes are all that a plan needs."""
    return LlavaLayout(
        folder=Path(),
        config=config,
        pad_to_square=True,
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    )


_SAM = {
    # Width, blocks, heads: Dosovitskiy et al. 2021 (arXiv 2010.11929), Table 1; a fourth of the
    # blocks, evenly spread, sees the whole image: Kirillov et al. 2023 (arXiv 2304.02643).
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
}
_ADAPTER_WIDTH = 192
"""SAM-Med2D: a fourth of ViT-B's width, as in sam-med2d_b.pth."""
_SAM2 = {
    # Width, blocks of each stage, side of the position table: sam2.1_hiera_*.yaml of
    # facebookresearch/sam2.
    "tiny": (96, (1, 2, 7, 2), 7),
    "small": (96, (1, 2, 11, 2), 7),
    "base_plus": (112, (2, 3, 16, 3), 14),
    "large": (144, (2, 6, 36, 4), 7),
}


def published_encoder(encoder_type: str, size: str | None) -> nn.Module:
    """An encoder of published size (the smallest by default), on PyTorch's default device.

    Raises:
        SettingError: the family has no such size.
    """
    if encoder_type == "sam":
        return _sam_vit(_SAM[_size("sam", size, tuple(_SAM))], 1024, adapter_width=0)
    if encoder_type == "sam2":
        width, blocks, side = _SAM2[_size("sam2", size, tuple(_SAM2))]
        return Sam2Encoder(sized_config(width, blocks, (side, side)))
    _size(encoder_type, size, ())
    if encoder_type == "sam_med2d":
        return _sam_vit(_SAM["b"], 256, _ADAPTER_WIDTH)
    assert encoder_type == "tinysam", encoder_type
    return TinyVit()


def _size(encoder_type: str, size: str | None, sizes: tuple[str, ...]) -> str:
    if size is None:
        return sizes[0] if sizes else ""
    if size not in sizes:
        allowed = ", ".join(sizes) or "none, as there is only one size"
        raise SettingError(
            f"--encoder_size {size}: allowed with --encoder_type {encoder_type} is {allowed}"
        )
    return size


def _sam_vit(sizes: tuple[int, int, int], image_size: int, adapter_width: int) -> SamVit:
    width, depth, heads = sizes
    fourth = depth // 4
    config = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_dim=4 * width,
        image_size=image_size,
        patch_size=16,
        window_size=WINDOW,
        global_attn_indexes=list(range(fourth - 1, depth, fourth)),
        output_channels=256,
    )
    return SamVit(config, adapter_width)
