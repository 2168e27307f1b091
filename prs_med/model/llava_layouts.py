"""The file layouts in which LLaVA weights exist, and the transformers model that each describes.

``llava_mistral``
    The original LLaVA-Med v1.5. Its config.json describes only the language model, so the vision
    tower's sizes are read from the shapes of the stored tensors.
``llava``
    What transformers writes, in any version: comes with a configuration of the whole model.

Each may be one file or shards with an index, safetensors or PyTorch's ``.bin``. Names of tensors
are those of :mod:`prs_med.model.llava_names`, whatever the configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_clip import clip_config_of, read_clip_tower
from prs_med.model.llava_hub import local_folder, read_json
from prs_med.model.llava_names import PROJECTOR, VISION
from prs_med.model.llava_preprocessing import CLIP_MEAN, CLIP_STD, read_preparation
from prs_med.model.llava_weights import stored_tensors

__all__ = ["CLIP_MEAN", "CLIP_STD", "LlavaLayout", "read_layout"]

_LANGUAGE_MODELS = ("mistral", "llama")


@dataclass(frozen=True)
class LlavaLayout:
    """A folder with LLaVA weights, understood."""

    folder: Path
    config: LlavaConfig
    pad_to_square: bool
    """Pad images with the mean colour (True) or crop their centre, as the config says."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    vision_folder: Path | None = None
    """A CLIP model whose vision tower takes the place of the one in ``folder``."""


def read_layout(path_or_id: str, vision_tower: str | None = None) -> LlavaLayout:
    """Find out what ``path_or_id`` (a folder, or a model on the Hugging Face hub) holds.

    Args:
        vision_tower: a CLIP model to take the vision tower from, folder or hub id; by default it
            is the one among the weights.

    Raises:
        CheckpointError: if there is no such folder or model, it is neither layout, or there is no
            vision tower.
    """
    folder = local_folder(path_or_id, "--vlm_path")
    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if model_type not in ("llava_mistral", "llava"):
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type is {model_type!r}; --vlm_path needs a LLaVA-Med "
            "model of type 'llava_mistral' (original) or 'llava' (transformers)"
        )
    if raw.get("quantization_config"):
        raise CheckpointError(
            f"{folder / 'config.json'}: these weights are quantised already; take those in full "
            "precision, with --load_4bit or --load_8bit"
        )
    shapes = {name: tuple(stored.value.shape) for name, stored in stored_tensors(folder).items()}
    if vision_tower is None and not any(name.startswith(VISION) for name in shapes):
        usual = raw.get("mm_vision_tower") or "openai/clip-vit-large-patch14-336"
        raise CheckpointError(
            f"{folder}: no CLIP tower among the weights; name one: --vision_tower {usual}"
        )
    tower = None if vision_tower is None else read_clip_tower(vision_tower)
    try:
        if model_type == "llava":
            config = config_from_transformers(folder, raw)
            if tower:
                config.vision_config = tower.config
        else:
            vision = tower.config if tower else clip_config_of(shapes, str(folder))
            config = config_from_original(folder, raw, vision)
    except (TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'config.json'}: describes no LLaVA model ({reason})"
        ) from None
    if tower:
        _refuse_other_width(f"--vision_tower {vision_tower}", folder, config, shapes)
    prepared = read_preparation(
        folder, raw, tower.folder if tower else None, config.vision_config.image_size
    )
    return LlavaLayout(
        folder=folder,
        config=config,
        pad_to_square=prepared.pad_to_square,
        image_mean=prepared.mean,
        image_std=prepared.std,
        vision_folder=tower.folder if tower else None,
    )


def config_from_transformers(folder: Path, raw: dict[str, Any]) -> LlavaConfig:
    """The configuration in ``raw``, the config.json of ``folder``, of type 'llava'.

    Raises:
        CheckpointError: it describes no model that can be used here.
        TypeError, KeyError, StrictDataclassError: it describes no model at all.
    """
    file = folder / "config.json"
    if "text_config" not in raw:
        raise CheckpointError(
            f"{file}: has no text_config; an original LLaVA checkpoint is of type 'llava_mistral'"
        )
    config = LlavaConfig.from_dict(raw)
    for name, kinds in (("text", _LANGUAGE_MODELS), ("vision", ("clip_vision_model",))):
        kind = getattr(config, f"{name}_config").model_type
        if kind not in kinds:
            raise CheckpointError(
                f"{file}: {name}_config is of model_type {kind!r}; supported: {', '.join(kinds)}"
            )
    return config


def config_from_original(
    folder: Path, raw: Mapping[str, Any], vision: CLIPVisionConfig
) -> LlavaConfig:
    """The configuration in ``raw``, the config.json of ``folder``, of type 'llava_mistral', which
    says nothing of the ``vision`` tower.

    Raises:
        CheckpointError: its projector is not known.
        TypeError, KeyError, StrictDataclassError: it describes no model at all.
    """
    if raw.get("mm_projector_type") != "mlp2x_gelu":
        raise CheckpointError(
            f"{folder / 'config.json'}: mm_projector_type is {raw.get('mm_projector_type')!r}; "
            "only 'mlp2x_gelu' (LLaVA-Med v1.5) is known"
        )
    text_names = set(MistralConfig().to_dict())
    text = MistralConfig(
        **{k: v for k, v in raw.items() if k in text_names | {"rope_theta"} and k != "model_type"}
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=raw.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=(
            "full" if raw.get("mm_vision_select_feature") == "cls_patch" else "default"
        ),
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def _refuse_other_width(
    tower: str, folder: Path, config: LlavaConfig, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    projector = shapes.get(f"{PROJECTOR}linear_1.weight")
    layers = config.vision_feature_layer
    width = config.vision_config.hidden_size * (len(layers) if isinstance(layers, list) else 1)
    if projector and projector[-1] != width:
        raise CheckpointError(
            f"{tower}: its features have {width} channels, but the projector of {folder} takes "
            f"{projector[-1]}; name the CLIP model that it was trained with"
        )
