"""One small model in every layout and container in which LLaVA checkpoints are published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaConfig

State = dict[str, Tensor]

# Written out for every layout on its own, so that no test agrees with the table under test by
# construction: (part of the running model, its name in the layout), the first match counts.
LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "original": (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.language_model.", "model."),
    ),
    "transformers_4": (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
    "transformers_4_52": (("model.vision_tower.", "model.vision_tower.vision_model."),),
    "transformers_5": (),
    "mixed": (
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
}
CONTAINERS = ("safetensors", "safetensors_shards", "bin", "bin_shards", "bin_of_old_pytorch")


def running_state(original: Path) -> State:
    """The weights of a folder in the original layout, by the running model's names."""
    stored = {k: v for file in original.glob("*.safetensors") for k, v in load_file(file).items()}
    pairs = tuple((old, new) for new, old in LAYOUTS["original"])
    return {_renamed(name, pairs): value for name, value in stored.items()}


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@dataclass(frozen=True)
class Source:
    """A small original checkpoint and the configuration of the same model in transformers."""

    folder: Path
    config: LlavaConfig


def write_variant(
    source: Source,
    folder: Path,
    layout: str,
    container: str,
    edit: Callable[[State], None] = lambda state: None,
    state: State | None = None,
) -> Path:
    """Write the model (or another ``state`` of it) to ``folder``; ``edit`` changes the renamed
    tensors before that."""
    folder.mkdir(parents=True)
    named = {
        _renamed(name, LAYOUTS[layout]): value
        for name, value in (state or running_state(source.folder)).items()
    }
    edit(named)
    write_container(folder, named, container)
    if layout == "original":
        shutil.copy(source.folder / "config.json", folder)
    else:
        source.config.save_pretrained(str(folder))
    for file in source.folder.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def write_container(folder: Path, state: Mapping[str, Tensor], container: str) -> None:
    """Write the tensors as one file or two shards of one kind."""
    kind, _, form = container.partition("_")
    stem = "model" if kind == "safetensors" else "pytorch_model"
    if form != "shards":
        save(dict(state), folder / f"{stem}.{kind}", zipped=form != "of_old_pytorch")
        return
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{kind}"
        save({name: state[name] for name in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / f"{stem}.{kind}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def save(state: State, file: Path, zipped: bool = True) -> None:
    """Write one file of the kind that its ending names."""
    if file.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, file, metadata={"format": "pt"})
    else:
        torch.save(state, file, _use_new_zipfile_serialization=zipped)


def one_weight_file(folder: Path) -> Path:
    """The first file with weights in ``folder``."""
    return min(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))


def change_json(file: Path, **changes: Any) -> None:
    """Set entries of a JSON file; None removes one."""
    whole = json.loads(file.read_text()) if file.is_file() else {}
    whole.update(changes)
    file.write_text(json.dumps({k: v for k, v in whole.items() if v is not None}))


CLIP_FORMS = ("whole_model", "vision_model", "vision_model_of_transformers_5")


def write_clip(
    folder: Path, tower: Mapping[str, Tensor], config: LlavaConfig, form: str, container: str
) -> Path:
    """Write a CLIP model with the vision tower ``tower`` (names as inside the tower)."""
    folder.mkdir(parents=True)
    prefix = "" if form == "vision_model_of_transformers_5" else "vision_model."
    state = {prefix + name: value for name, value in tower.items()}
    vision = config.vision_config.to_dict()
    if form == "whole_model":
        # As openai/clip-vit-large-patch14-336 is published, buffers included.
        state |= {
            "vision_model.embeddings.position_ids": torch.arange(17)[None],
            "text_model.embeddings.position_ids": torch.arange(77)[None],
            "text_model.embeddings.token_embedding.weight": torch.zeros(9, 8),
            "text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(8, 8),
            "text_model.final_layer_norm.weight": torch.zeros(8),
            "logit_scale": torch.zeros(()),
            "text_projection.weight": torch.zeros(8, 8),
            "visual_projection.weight": torch.zeros(8, vision["hidden_size"]),
        }
        described: dict[str, Any] = {"model_type": "clip", "vision_config": vision}
    else:
        described = {**vision, "model_type": "clip_vision_model"}
    write_container(folder, state, container)
    (folder / "config.json").write_text(json.dumps(described))
    return folder
