"""The layout in which PRS-Med models are released, to and from folders with trained weights.

::

    lora_adapter/        PEFT adapter of the original LLaVA modules
    tokenizer/           the language model's tokenizer
    image_encoder.pth    the whole SAM under ``sam.``, and its encoder again, ``image_encoder.``
    mask_decoder.pth     the mask decoder
    cls.pth              the modality head: ``2.weight``, ``2.bias``

What is in it and serves nothing here (SAM's own prompts and masks; adapters of the CLIP tower, in
which nothing was ever learnt) is kept in ``released_rest.safetensors``, so that the export gives
back the files that were imported.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prs_med.config import ENCODERS, Settings, names_in
from prs_med.model.encoders.files import load_strictly, read_state_dict
from prs_med.model.encoders.registry import encoder_family, encoder_from_published
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.llava_tokenizer import load_tokenizer
from prs_med.model.mllm import add_lora
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import TrainedFolder, open_trained, write_description
from prs_med.settings_io import save_settings

RELEASED_MODALITIES = (
    "brain_tumors_ct_scan",
    "breast_tumors_ct_scan",
    "lung_CT",
    "lung_Xray",
    "skin_rgbimage",
    "polyp_endoscopy",
)
"""Classes of the released modality head, in the order of the released training code."""

REST = "released_rest.safetensors"
_FILES = ("image_encoder.pth", "mask_decoder.pth", "cls.pth")
_PEFT = "base_model.model."
_CLIP = "model.vision_tower."
_OURS = "model.language_model."


def import_released(
    source: Path,
    output: Path,
    vlm_path: str,
    modalities: tuple[str, ...] = RELEASED_MODALITIES,
    vision_tower: str | None = None,
) -> None:
    """Make a folder with trained weights of a released checkpoint.

    Only the configuration of the base model is read, not its weights.

    Args:
        source: the folder of a released checkpoint.
        output: where to write; must not exist.
        vlm_path: the base model's folder or hub id.
        modalities: names of the modality head's classes in order.
        vision_tower: folder or hub id of the CLIP tower, if it is not the base model's own.

    Raises:
        CheckpointError: naming the file and what in it is missing, left over or of another model.
    """
    _refuse_unless_released(source)
    if output.exists():
        raise CheckpointError(f"{output} exists already: name a new folder, or remove it")
    layout = read_layout(vlm_path, vision_tower)
    _refuse_other_tokenizer(source / "tokenizer", layout)
    adapter = _read_adapter(source / "lora_adapter")
    encoder_type, sam = _read_encoder(source / "image_encoder.pth")
    settings = Settings(
        vlm_path=vlm_path,
        vision_tower=vision_tower,
        encoder_type=encoder_type,
        prompt_template="released",
        # They were trained with hidden states of all tokens as the mask decoder's prompt.
        prompt_tokens="all",
        **adapter.settings,
    )
    lora = _lora_for_us(adapter, layout, settings)
    branch = SegmentationBranch(
        encoder_from_published(encoder_type, sam, str(source / "image_encoder.pth")),
        layout.config.text_config.hidden_size,
        len(modalities),
        settings.decoder_dropout,
    )
    for name, part in (("mask_decoder", branch.mask_decoder), ("cls", branch.cls)):
        file = source / f"{name}.pth"
        state = read_state_dict(file)
        if name == "cls":
            _check_classes(file, state, modalities)
        load_strictly(part, state, str(file))
    used = encoder_family(encoder_type).to_published(branch.image_encoder.state_dict())
    rest = {f"sam.{name}": value for name, value in sam.items() if name not in used}
    rest |= {f"adapter.{name}": value for name, value in adapter.dead.items()}

    draft = output.with_name(output.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "adapter").mkdir(parents=True)
    _save(lora, draft / "adapter" / "adapter_model.safetensors")
    config = add_lora(_without_weights(layout), settings).peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(str(draft / "adapter"))
    _save(branch.state_dict(), draft / "segmentation.safetensors")
    _save(rest, draft / REST)
    shutil.copytree(source / "tokenizer", draft / "tokenizer")
    save_settings(settings, draft / "settings.yaml")
    write_description(draft, vlm_path, modalities, {"imported_from": source.name})
    draft.rename(output)


def export_released(folder: Path, output: Path, sam_ckpt: str | None = None) -> None:
    """Write a folder with trained weights in the released layout.

    Args:
        sam_ckpt: published file of the segmentation encoder, for the parts of SAM that the
            released layout holds and nothing here uses. Not needed for what was imported.

    Raises:
        CheckpointError: if the folder is incomplete, or its weights have no place in that layout.
    """
    trained = open_trained(folder)
    settings = trained.settings
    if output.exists():
        raise CheckpointError(f"{output} exists already: name a new folder, or remove it")
    if settings.finetune != "lora" or settings.train_projector:
        raise CheckpointError(
            f"{folder}: the released layout has no place for a language model that was trained "
            "fully, nor for a trained projector"
        )
    state = load_file(folder / "segmentation.safetensors")
    rest = _rest_of(trained, sam_ckpt)
    family = encoder_family(settings.encoder_type)
    sam = family.to_published(_under(state, "image_encoder.")) | _under(rest, "sam.")
    encoder = {name: value for name, value in sam.items() if name.startswith("image_encoder.")}

    draft = output.with_name(output.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "lora_adapter").mkdir(parents=True)
    lora = load_file(folder / "adapter" / "adapter_model.safetensors")
    original = {_to_original(name): value for name, value in lora.items()}
    _save(
        original | _under(rest, "adapter."),
        draft / "lora_adapter" / "adapter_model.safetensors",
    )
    (draft / "lora_adapter" / "adapter_config.json").write_text(
        json.dumps(_original_config(settings), indent=2), encoding="utf-8"
    )
    shutil.copytree(folder / "tokenizer", draft / "tokenizer")
    torch.save({f"sam.{n}": t for n, t in sam.items()} | encoder, draft / "image_encoder.pth")
    torch.save(_under(state, "mask_decoder."), draft / "mask_decoder.pth")
    torch.save(_under(state, "cls."), draft / "cls.pth")
    draft.rename(output)


def _refuse_unless_released(source: Path) -> None:
    if source.is_file():
        raise CheckpointError(
            f"{source}: a single file; a released PRS-Med checkpoint is a folder with "
            f"lora_adapter/, tokenizer/, {', '.join(_FILES)}. Files of train_prs_med.py "
            "(best_model_epoch_N.pth) hold another network, with a fusion module, and cannot be "
            "converted"
        )
    for name in ("lora_adapter/adapter_config.json", "tokenizer", *_FILES):
        if not (source / name).exists():
            raise CheckpointError(f"{source / name}: not found; a released checkpoint has it")


def _refuse_other_tokenizer(folder: Path, layout: LlavaLayout) -> None:
    # The base model's is used from here on.
    theirs = load_tokenizer(replace(layout, folder=folder)).get_vocab()
    ours = load_tokenizer(layout).get_vocab()
    different = sorted({token for token, _ in theirs.items() ^ ours.items()})
    if different:
        raise CheckpointError(
            f"{folder}: another tokenizer than that of {layout.folder}: they differ in "
            f"{len(different)} tokens, such as {different[0]!r}"
        )


@dataclass(frozen=True)
class _Adapter:
    learnt: dict[str, Tensor]
    """Weights by the names of the original modules, ``model.layers...``."""
    dead: dict[str, Tensor]
    """Those of the CLIP tower, under the names of the file: they change nothing."""
    settings: dict[str, Any]
    folder: Path


_SUPPORTED = {"peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False}


def _read_adapter(folder: Path) -> _Adapter:
    config = _read_config(folder / "adapter_config.json")
    file = next(
        (folder / f"adapter_model{end}" for end in (".safetensors", ".bin")
         if (folder / f"adapter_model{end}").is_file()),
        folder / "adapter_model.safetensors",
    )  # fmt: skip
    learnt: dict[str, Tensor] = {}
    dead: dict[str, Tensor] = {}
    for stored, value in read_state_dict(file).items():
        name = re.sub(rf"^({re.escape(_PEFT)})+", "", stored).replace(".default.", ".")
        if name.startswith(_CLIP):
            if name.endswith("lora_B.weight") and value.any():
                raise CheckpointError(
                    f"{file}: {stored} is not zero: this adapter changes the CLIP tower, which "
                    "is not supported"
                )
            dead[stored] = value
        elif re.match(r"model\.layers\.\d+\.", name):
            learnt[name] = value
        else:
            raise CheckpointError(f"{file}: {stored} belongs to no known module")
    return _Adapter(learnt, dead, _lora_settings(folder, config), folder)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return config


def _lora_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    for key, wanted in _SUPPORTED.items():
        if config.get(key, wanted) != wanted:
            raise CheckpointError(f"{file}: {key} {config[key]!r} is not supported, only {wanted}")
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform"):
        if config.get(key):
            raise CheckpointError(f"{file}: {key} is not supported")
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        raise CheckpointError(f"{file}: target_modules is {targets!r}, expected a list of names")
    return {
        "lora_rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "lora_dropout": config.get("lora_dropout", 0.0),
        "lora_targets": ",".join(sorted(targets)),
    }


def _without_weights(layout: LlavaLayout) -> LlavaForConditionalGeneration:
    with torch.device("meta"):
        return LlavaForConditionalGeneration(layout.config)


def _lora_for_us(adapter: _Adapter, layout: LlavaLayout, settings: Settings) -> dict[str, Tensor]:
    own = get_peft_model_state_dict(add_lora(_without_weights(layout), settings))
    state = {_to_ours(name): value for name, value in adapter.learnt.items()}
    for kind, names in (("missing", own.keys() - state), ("left over", state.keys() - own)):
        if names:
            raise CheckpointError(
                f"{adapter.folder}: weights do not fit {layout.folder}; {kind}: "
                + ", ".join(sorted(names)[:5])
            )
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{adapter.folder}: {name} has the shape {tuple(value.shape)}, but with "
                f"{layout.folder} it would have {tuple(own[name].shape)}"
            )
    return state


def _to_ours(name: str) -> str:
    return _PEFT + _OURS + name.removeprefix("model.")


def _to_original(name: str) -> str:
    return _PEFT + "model." + name.removeprefix(_PEFT + _OURS)


def _original_config(settings: Settings) -> dict[str, Any]:
    return {
        "base_model_name_or_path": settings.vlm_path,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "peft_type": "LORA",
        "r": settings.lora_rank,
        "target_modules": names_in(settings.lora_targets),
        "task_type": "CAUSAL_LM",
    }


def _read_encoder(file: Path) -> tuple[str, dict[str, Tensor]]:
    """The family of the encoder, and the tensors of the whole SAM by their published names."""
    stored = read_state_dict(file)
    sam = _under(stored, "sam.")
    for name, value in stored.items():
        if name.startswith("sam."):
            continue
        if not name.startswith("image_encoder."):
            raise CheckpointError(f"{file}: {name} belongs to no known part")
        if name in sam and not torch.equal(sam[name], value):
            raise CheckpointError(f"{file}: {name} and sam.{name} should be equal and are not")
        sam[name] = value
    for encoder_type in ENCODERS:
        if encoder_family(encoder_type).recognises(sam):
            return encoder_type, sam
    raise CheckpointError(
        f"{file}: no known segmentation encoder; it holds {', '.join([*stored][:3])}, ..."
    )


def _check_classes(file: Path, state: Mapping[str, Tensor], modalities: tuple[str, ...]) -> None:
    found = len(state["2.weight"]) if "2.weight" in state else len(modalities)
    if found != len(modalities):
        raise CheckpointError(
            f"{file}: a head of {found} classes, but {len(modalities)} modalities are named: "
            f"{', '.join(modalities)}; name all of them in order (--modalities)"
        )


def _rest_of(trained: TrainedFolder, sam_ckpt: str | None) -> dict[str, Tensor]:
    file = trained.folder / REST
    if file.is_file():
        return load_file(file)
    path = sam_ckpt or trained.settings.sam_ckpt
    if not path:
        raise CheckpointError(
            f"{trained.folder}: the released layout holds the whole SAM; name the published file "
            "of the segmentation encoder (--sam_ckpt)"
        )
    family = encoder_family(trained.settings.encoder_type)
    whole = read_state_dict(Path(path))
    used = family.to_published(family.encoder_state(whole, path))
    return {f"sam.{name}": value for name, value in whole.items() if name not in used}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _save(state: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, file)
