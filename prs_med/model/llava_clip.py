"""The CLIP vision tower: its sizes from stored tensors, or a CLIP model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPVisionConfig

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_hub import local_folder, read_json
from prs_med.model.llava_names import VISION

_HEAD_WIDTH = 64
"""Every CLIP vision tower of OpenAI has heads of 64 channels; the stored tensors do not tell."""


@dataclass(frozen=True)
class ClipTower:
    """A CLIP model whose vision tower is to be used."""

    folder: Path
    config: CLIPVisionConfig


def read_clip_tower(path_or_id: str) -> ClipTower:
    """Find out what the CLIP model ``path_or_id`` (a folder or hub id) looks like.

    Raises:
        CheckpointError: if there is none, or it is another kind of model.
    """
    folder = local_folder(path_or_id, "--vision_tower")
    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    try:
        if model_type == "clip":
            return ClipTower(folder, CLIPConfig.from_dict(raw).vision_config)
        if model_type == "clip_vision_model":
            return ClipTower(folder, CLIPVisionConfig.from_dict(raw))
    except (TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'}: describes no model ({reason})") from None
    raise CheckpointError(
        f"{folder / 'config.json'}: model_type is {model_type!r}; --vision_tower needs a CLIP "
        "model ('clip' or 'clip_vision_model'), such as openai/clip-vit-large-patch14-336"
    )


def clip_config_of(shapes: Mapping[str, tuple[int, ...]], where: str) -> CLIPVisionConfig:
    """The configuration of the OpenAI CLIP tower among tensors of these ``shapes``.

    Raises:
        CheckpointError: if parts of it are missing; ``where`` names the folder.
    """
    try:
        width, _, patch, _ = shapes[f"{VISION}embeddings.patch_embedding.weight"]
        positions = shapes[f"{VISION}embeddings.position_embedding.weight"][0]
        hidden = shapes[f"{VISION}encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where}: the CLIP tower among the weights is incomplete ({error})"
        ) from None
    layers = f"{VISION}encoder.layers."
    numbers = {
        name.removeprefix(layers).split(".")[0] for name in shapes if name.startswith(layers)
    }
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len(numbers),
        num_attention_heads=max(1, width // _HEAD_WIDTH),
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
        projection_dim=width,
    )
