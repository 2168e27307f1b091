"""The two file layouts in which LLaVA weights exist, and how each becomes a transformers model.

``llava_mistral``
    The original LLaVA-Med v1.5: Mistral's names, ``mm_projector``, and the CLIP tower inside the
    shards under ``vision_tower.vision_tower``. Its config.json describes only the language model,
    so the vision tower's and projector's sizes are read from the shapes of the stored tensors.
``llava``
    What transformers writes; loaded with its own configuration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig

from prs_med.model.errors import CheckpointError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_HEAD_WIDTH = 64
"""Every CLIP vision tower of OpenAI has heads of 64 channels; the stored tensors do not tell."""

_VISION = "model.vision_tower.vision_tower.vision_model."
_ORIGINAL_TO_TRANSFORMERS = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}


@dataclass(frozen=True)
class LlavaLayout:
    """A folder with LLaVA weights, understood."""

    folder: Path
    config: LlavaConfig
    key_mapping: dict[str, str] | None
    """Regular expressions from stored names to transformers' names; None where they agree."""
    pad_to_square: bool
    """Pad images with the mean colour (True) or crop their centre, as the config says."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


def read_layout(path_or_id: str) -> LlavaLayout:
    """Find out what ``path_or_id`` (a folder, or a model on the Hugging Face hub) holds.

    Raises:
        CheckpointError: if there is no such folder or model, or it is neither layout.
    """
    folder = _local_folder(path_or_id)
    raw = _read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if model_type == "llava_mistral":
        return LlavaLayout(
            folder=folder,
            config=_config_from_original(folder, raw),
            key_mapping=_ORIGINAL_TO_TRANSFORMERS,
            pad_to_square=raw.get("image_aspect_ratio") == "pad",
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        )
    if model_type == "llava":
        mean, std = _image_statistics(folder)
        return LlavaLayout(
            folder=folder,
            config=LlavaConfig.from_dict(raw),
            key_mapping=None,
            pad_to_square=raw.get("image_aspect_ratio") == "pad",
            image_mean=mean,
            image_std=std,
        )
    raise CheckpointError(
        f"{folder / 'config.json'}: model_type is {model_type!r}; --vlm_path needs a LLaVA-Med "
        "model of type 'llava_mistral' (original) or 'llava' (transformers)"
    )


def _local_folder(path_or_id: str) -> Path:
    folder = Path(path_or_id)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path_or_id.startswith(".") or path_or_id.count("/") != 1:
        raise CheckpointError(f"--vlm_path {path_or_id}: no such folder, and not a hub id")
    try:
        return Path(
            snapshot_download(
                path_or_id, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]
            )
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"--vlm_path {path_or_id}: no such folder, and not to be had from the hub ({reason})"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a model folder needs it") from None
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return loaded


def _image_statistics(folder: Path) -> tuple[Any, Any]:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return CLIP_MEAN, CLIP_STD
    processor = _read_json(path)
    return tuple(processor.get("image_mean", CLIP_MEAN)), tuple(
        processor.get("image_std", CLIP_STD)
    )


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in a folder's safetensors files, without reading them.

    Raises:
        CheckpointError: if there are none, one is corrupt, or one named by the index is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index)["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: holds no *.safetensors weights")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (safe_open is not a mapping)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error})") from None
    return shapes


def _config_from_original(folder: Path, raw: dict[str, Any]) -> LlavaConfig:
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
        vision_config=_clip_config(folder, stored_shapes(folder)),
        text_config=text,
        vision_feature_layer=raw.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=(
            "full" if raw.get("mm_vision_select_feature") == "cls_patch" else "default"
        ),
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def _clip_config(folder: Path, shapes: dict[str, tuple[int, ...]]) -> CLIPVisionConfig:
    try:
        width, _, patch, _ = shapes[f"{_VISION}embeddings.patch_embedding.weight"]
        positions = shapes[f"{_VISION}embeddings.position_embedding.weight"][0]
        hidden = shapes[f"{_VISION}encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: no CLIP tower among the weights ({error.args[0]} is missing)"
        ) from None
    layers = {
        name.removeprefix(f"{_VISION}encoder.layers.").split(".")[0]
        for name in shapes
        if name.startswith(f"{_VISION}encoder.layers.")
    }
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // CLIP_HEAD_WIDTH),
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
        projection_dim=width,
    )
