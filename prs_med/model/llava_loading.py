"""The base model with its weights, in the precision and kernels that the settings name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from prs_med.config import ModelSettings, SettingError
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout
from prs_med.model.llava_weights import read_weights

_PRECISION = {"bf16": torch.bfloat16, "fp32": torch.float32}
_KEEP_UNQUANTISED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def load_llava(
    layout: LlavaLayout, settings: ModelSettings, on_host: bool = False
) -> LlavaForConditionalGeneration:
    """Load the base model, quantised if asked for, with every parameter frozen.

    Args:
        on_host: leave it in the host's memory, where weights are mapped from their files and take
            none, if they are in the right precision or, for LoRA, in fp32. Whoever moves a
            parameter to a device then converts it, too; layers in 4 bits are quantised when they
            are moved.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape.
        SettingError: if the attention kernels asked for cannot run here.
    """
    # Read here rather than by transformers, so that one strict check covers every layout and
    # container, and the vision tower may come from another folder.
    weights = read_weights(layout.folder, layout.config, layout.vision_folder)
    dtype = precision = _PRECISION[settings.precision]
    if on_host and _lora_on_fp32(weights, settings):
        dtype = torch.float32
    options: dict[str, Any] = {}
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    if settings.load_8bit:
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=_KEEP_UNQUANTISED
        )
    model, report = LlavaForConditionalGeneration.from_pretrained(
        None,
        config=layout.config,
        state_dict=weights,
        dtype=dtype,
        attn_implementation=choose_attention(settings),
        output_loading_info=True,
        **options,
    )
    unloaded = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if unloaded:
        raise CheckpointError(f"{layout.folder}: could not be loaded: {', '.join(unloaded)}")
    model.name_or_path = model.config.name_or_path = str(layout.folder)
    model.requires_grad_(False)
    if settings.load_4bit:
        _quantise_when_moved(model, precision)
        if not on_host:
            model.to(device)
    return model


def _lora_on_fp32(weights: Mapping[str, Tensor], settings: ModelSettings) -> bool:
    """Whether all weights are in fp32, and LoRA is trained beside them: PEFT rounds it as the base
    is rounded, which then is left to the engine. Frozen weights are compared as they are."""
    types = {value.dtype for value in weights.values() if value.is_floating_point()}
    return types == {torch.float32} and settings.finetune == "lora" and not settings.freeze_mllm


def _quantise_when_moved(model: LlavaForConditionalGeneration, dtype: torch.dtype) -> None:
    """Have the language model's linear layers become nf4 when they are moved to a device, also to
    the CPU. All else keeps its precision."""
    # Importing it takes seconds, and plans do without.
    from bitsandbytes.nn import Linear4bit, Params4bit

    language_model = model.model.language_model
    linear = {n: m for n, m in language_model.named_modules() if type(m) is nn.Linear}
    for name, layer in linear.items():
        with torch.device("meta"):
            quantised = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype
            )
        quantised.weight = Params4bit(
            layer.weight.data,
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
            # ZeRO-3 partitions only floating-point storage.
            quant_storage=dtype,
            module=quantised,
        )
        quantised.bias = layer.bias
        language_model.set_submodule(name, quantised)
    # PEFT asks for it.
    model.is_loaded_in_4bit = True


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
