"""The real modules without their weights, on PyTorch's meta device: shapes and types alone.

A model of any size is built there in a second, and computes there in a few: every operation runs,
with its shapes, and no number is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import peft.tuners.lora.model as peft_lora
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import LlavaForConditionalGeneration

from prs_med.config import ModelSettings, Settings
from prs_med.model.encoders.files import read_state_dict
from prs_med.model.encoders.registry import encoder_family
from prs_med.model.errors import CheckpointError
from prs_med.model.initial_weights import new_segmentation
from prs_med.model.llava_clip import read_clip_tower
from prs_med.model.llava_files import weight_files
from prs_med.model.llava_hub import read_json
from prs_med.model.llava_layouts import (
    LlavaLayout,
    config_from_original,
    config_from_transformers,
    read_layout,
)
from prs_med.model.mllm import Mllm, make_trainable
from prs_med.model.segmentation import SegmentationBranch
from prs_med.plan.published import (
    described,
    published_clip,
    published_encoder,
    published_layout,
)

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_MODALITIES = ("",) * 6
"""PosMed has six; a class of the modality head has 257 parameters."""


@dataclass(frozen=True)
class MetaModel:
    """Everything that a training step computes with."""

    mllm: Mllm
    segmentation: SegmentationBranch
    settings: Settings

    @property
    def image_tokens(self) -> int:
        """Features that the CLIP tower gives for one image."""
        config = self.mllm.llava.config
        vision = config.vision_config
        with_class_token = config.vision_feature_select_strategy == "full"
        return int((vision.image_size // vision.patch_size) ** 2 + with_class_token)

    @property
    def clip_side(self) -> int:
        """Side of the CLIP tower's input in pixels."""
        return int(self.mllm.llava.config.vision_config.image_size)

    @property
    def trains_mllm(self) -> bool:
        """Whether the language model's engine has anything to train."""
        return any(p.requires_grad for p in self.mllm.parameters())


def meta_model(settings: Settings, encoder_size: str | None) -> MetaModel:
    """The model that training would start from, without weights.

    Raises:
        SettingError, CheckpointError: the settings describe no model.
    """
    layout = planned_layout(settings)
    mllm = meta_mllm(layout, settings)
    encoder = _encoder(settings, encoder_size)
    with torch.device("meta"):
        segmentation = new_segmentation(encoder, settings, mllm.hidden_size, _MODALITIES)
    return MetaModel(mllm, segmentation, settings)


def planned_layout(settings: ModelSettings) -> LlavaLayout:
    """Sizes of the language model with its CLIP tower: as in ``--vlm_path``, or as published.

    Of a folder with weights their shapes are read, otherwise only config.json.

    Raises:
        CheckpointError: what ``--vlm_path`` or ``--vision_tower`` names cannot be used.
    """
    if not settings.vlm_path:
        return published_layout()
    folder = Path(settings.vlm_path)
    if folder.is_dir() and _has_weights(folder):
        return read_layout(settings.vlm_path, settings.vision_tower)
    file = folder / "config.json" if folder.is_dir() else _config_of_hub(settings.vlm_path)
    return _layout_of(file, settings.vision_tower)


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except CheckpointError:
        return False


def _config_of_hub(name: str) -> Path:
    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"--vlm_path {name}: no such folder, and no config.json to be had from the hub "
            f"({reason})"
        ) from None


def _layout_of(file: Path, vision_tower: str | None) -> LlavaLayout:
    raw = read_json(file)
    vision = read_clip_tower(vision_tower).config if vision_tower else published_clip()
    try:
        if raw.get("model_type") == "llava_mistral":
            # Its config.json says of the tower only how wide the features are.
            if raw.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
                raise CheckpointError(
                    f"{file}: mm_hidden_size is {raw['mm_hidden_size']}, not CLIP-L's "
                    f"{vision.hidden_size}; name the CLIP tower with --vision_tower"
                )
            return described(config_from_original(file.parent, raw, vision))
        if raw.get("model_type") == "llava":
            config = config_from_transformers(file.parent, raw)
            if vision_tower:
                config.vision_config = vision
            return described(config)
    except (TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file}: describes no LLaVA model ({reason})") from None
    raise CheckpointError(
        f"{file}: model_type is {raw.get('model_type')!r}; allowed are 'llava_mistral' and 'llava'"
    )


def meta_mllm(layout: LlavaLayout, settings: Settings) -> Mllm:
    """CLIP tower, projector and language model, trainable as the settings say."""
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration._from_config(
            layout.config, dtype=DTYPES[settings.precision], attn_implementation="sdpa"
        )
        llava.requires_grad_(False)
        with _plain_layers():
            mllm = make_trainable(llava, layout, settings)
    if settings.freeze_mllm:
        mllm.requires_grad_(False)
    return mllm.use_one_precision()


@contextmanager
def _plain_layers() -> Iterator[None]:
    """Within this context, PEFT takes for granted that no layer is in 4 or 8 bits. To look, it
    would import bitsandbytes, and with it PyTorch's compiler, which takes seconds."""
    with (
        patch.object(peft_lora, "is_bnb_available", lambda: False),
        patch.object(peft_lora, "is_bnb_4bit_available", lambda: False),
    ):
        yield


def _encoder(settings: ModelSettings, size: str | None) -> nn.Module:
    if not settings.sam_ckpt:
        with torch.device("meta"):
            return published_encoder(settings.encoder_type, size)
    where = settings.sam_ckpt
    whole = read_state_dict(Path(where))
    family = encoder_family(settings.encoder_type)
    if not family.recognises(whole):
        raise CheckpointError(
            f"{where}: not a file of {family.title} (--encoder_type {settings.encoder_type})"
        )
    state = family.encoder_state(whole, where)
    with torch.device("meta"):
        return family.build(state)
