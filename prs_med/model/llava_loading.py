"""The base model with its weights, in the precision and kernels that the settings name."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from prs_med.config import ModelSettings, SettingError
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout
from prs_med.model.llava_weights import read_weights

_PRECISION = {"bf16": torch.bfloat16, "fp32": torch.float32}
_KEEP_UNQUANTISED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def load_llava(layout: LlavaLayout, settings: ModelSettings) -> LlavaForConditionalGeneration:
    """Load the base model, quantised if asked for, with every parameter frozen.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape.
        SettingError: if the attention kernels asked for cannot run here.
    """
    options: dict[str, Any] = {"quantization_config": _quantisation(settings)}
    if options["quantization_config"] is not None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options["device_map"] = {"": device}
    model, report = LlavaForConditionalGeneration.from_pretrained(
        None,
        config=layout.config,
        # Read here rather than by transformers, so that one strict check covers every layout and
        # container, and the vision tower may come from another folder.
        state_dict=read_weights(layout.folder, layout.config, layout.vision_folder),
        dtype=_PRECISION[settings.precision],
        attn_implementation=choose_attention(settings),
        output_loading_info=True,
        **options,
    )
    unloaded = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if unloaded:
        raise CheckpointError(f"{layout.folder}: could not be loaded: {', '.join(unloaded)}")
    model.name_or_path = model.config.name_or_path = str(layout.folder)
    model.requires_grad_(False)
    return model


def _quantisation(settings: ModelSettings) -> BitsAndBytesConfig | None:
    if settings.load_4bit:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_PRECISION[settings.precision],
            # ZeRO-3 partitions only floating-point storage.
            bnb_4bit_quant_storage=_PRECISION[settings.precision],
            llm_int8_skip_modules=_KEEP_UNQUANTISED,
        )
    if settings.load_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEEP_UNQUANTISED)
    return None


def choose_attention(settings: ModelSettings) -> str:
    """Name of transformers' attention implementation for ``--attention``.

    Raises:
        SettingError: if flash-attn is asked for where it cannot run.
    """
    reason = _why_not_flash(settings)
    if settings.attention == "flash" and reason:
        raise SettingError(f"--attention flash: {reason}; use --attention auto or sdpa")
    return "flash_attention_2" if settings.attention != "sdpa" and not reason else "sdpa"


def _why_not_flash(settings: ModelSettings) -> str:
    if settings.share_image_prefix:
        return "flash-attn has no mask for questions that share an image (--share_image_prefix)"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed (pip install 'prs-med[flash]')"
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8:
        return "flash-attn needs a CUDA device of compute capability 8.0 or newer"
    if settings.precision != "bf16":
        return "flash-attn computes in bf16, not with --precision fp32"
    return ""
