"""A folder with everything that training changed, from which the model is built again.

::

    model.json                  format version, base model, modalities, validation scores
    settings.yaml               all settings of the run
    adapter/                    PEFT adapter (LoRA; projector too if trained), loads in plain PEFT
    mllm/                       instead of adapter/ after full fine-tuning: a transformers model
    segmentation.safetensors    encoder, mask decoder and modality head, fp32
    tokenizer/                  the base model's tokenizer
    split.json                  which images the training had in which split, if it is known

The base model's frozen weights are referred to, not copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prs_med.config import SettingError, Settings
from prs_med.model.encoders.files import load_strictly
from prs_med.model.encoders.registry import build_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, build_mllm, load_llava, make_trainable
from prs_med.model.segmentation import SegmentationBranch
from prs_med.settings_io import load_settings, save_settings
from prs_med.storage.replaced_folder import replace_folder

FORMAT_VERSION = 1
SPLIT = "split.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model built from such a folder, in evaluation mode."""

    mllm: Mllm
    segmentation: SegmentationBranch
    layout: LlavaLayout
    settings: Settings
    modalities: tuple[str, ...]
    split: bytes | None = None
    """The content of ``split.json``; None where there is none."""


def save_trained(
    folder: Path,
    mllm: Mllm,
    mllm_weights: Mapping[str, Tensor],
    segmentation_state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    modalities: tuple[str, ...],
    results: Mapping[str, Any],
    split: bytes | None = None,
) -> None:
    """Write ``folder``, replacing an older one as a whole.

    Args:
        mllm_weights: parameters of ``mllm`` by their names in it: the trained ones, or all of
            them after full fine-tuning.
        segmentation_state: full state of the segmentation branch.
        results: numbers to keep beside the weights, such as validation scores.
        split: content of ``split.json``; None writes none.
    """
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    weights = {name.removeprefix("model."): value for name, value in mllm_weights.items()}
    if isinstance(mllm.model, PeftModel):
        mllm.model.save_pretrained(str(draft / "adapter"), state_dict=weights)
    else:
        mllm.llava.save_pretrained(
            str(draft / "mllm"), state_dict=weights, save_original_format=False
        )
    save_file(
        {name: value.contiguous() for name, value in segmentation_state.items()},
        draft / "segmentation.safetensors",
    )
    tokenizer.save_pretrained(str(draft / "tokenizer"))
    save_settings(settings, draft / "settings.yaml")
    write_description(draft, settings.vlm_path, modalities, results)
    if split is not None:
        (draft / SPLIT).write_bytes(split)
    replace_folder(draft, folder)


def write_description(
    folder: Path, base_model: str, modalities: tuple[str, ...], results: Mapping[str, Any]
) -> None:
    """Write ``model.json`` into ``folder``."""
    description = {
        "format_version": FORMAT_VERSION,
        "base_model": base_model,
        "modalities": list(modalities),
        "results": dict(results),
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class TrainedFolder:
    """Such a folder, its descriptions read and its weights still on disk."""

    folder: Path
    base_model: str
    settings: Settings
    modalities: tuple[str, ...]
    split: bytes | None
    """The content of ``split.json``; None where there is none, as in folders of earlier
    versions."""


def open_trained(folder: Path) -> TrainedFolder:
    """Read what ``folder`` says about itself.

    Raises:
        CheckpointError: naming the file that is missing, corrupt or of another version.
    """
    about = _read_about(folder / "model.json")
    settings = _read_settings(folder / "settings.yaml")
    modalities = tuple(about["modalities"])
    return TrainedFolder(folder, about["base_model"], settings, modalities, _read_split(folder))


def load_trained(
    folder: Path,
    vlm_path: str | None = None,
    vision_tower: str | None = None,
    load_4bit: bool | None = None,
) -> TrainedModel:
    """Build the model that ``folder`` holds, ready for evaluation.

    Args:
        vlm_path: where the base model lies, if it has moved since training.
        vision_tower: where the CLIP tower lies, if training took one from elsewhere that has moved.
        load_4bit: whether the language model is loaded in 4 bits; None: as in training.

    Raises:
        CheckpointError: naming the file that is missing, corrupt or of another model.
    """
    trained = open_trained(folder)
    # A setting of training that would keep the attention kernels from being chosen freely.
    settings = replace(in_bits(trained.settings, load_4bit), share_image_prefix=False)
    layout = read_layout(vlm_path or trained.base_model, vision_tower or settings.vision_tower)
    mllm = load_trained_mllm(trained, layout, settings).use_one_precision().eval()
    segmentation = load_trained_segmentation(
        trained, mllm.hidden_size, settings.decoder_dropout, trained.modalities
    ).eval()
    return TrainedModel(mllm, segmentation, layout, settings, trained.modalities, trained.split)


def in_bits(settings: Settings, load_4bit: bool | None) -> Settings:
    """The settings of training with the language model in 4 bits or as it is; None: as in training.

    Raises:
        SettingError: weights of this kind cannot be loaded so.
    """
    if load_4bit is None:
        return settings
    return replace(settings, load_4bit=load_4bit, load_8bit=False)


def _read_about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: no trained model ({error})") from None
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format version {version!r}; this program reads {FORMAT_VERSION}"
        )
    for name in ("base_model", "modalities"):
        if name not in about:
            raise CheckpointError(f"{file}: entry {name!r} is missing")
    return dict(about)


def _read_split(folder: Path) -> bytes | None:
    try:
        return (folder / SPLIT).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{folder / SPLIT}: {error.strerror}") from None


def _read_settings(file: Path) -> Settings:
    _require(file)
    try:
        return load_settings(file)
    except SettingError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _require(file: Path) -> None:
    # Checked here, because the libraries take a path that does not exist for a model on the hub.
    if not file.is_file():
        raise CheckpointError(f"{file}: not found; a folder with trained weights needs it")


def load_trained_mllm(
    trained: TrainedFolder, layout: LlavaLayout, settings: Settings, on_host: bool = False
) -> Mllm:
    """The language model with the trained weights of the folder, trainable as ``settings`` say;
    ``on_host`` as of :func:`prs_med.model.llava_loading.load_llava`.

    Raises:
        CheckpointError: if the weights do not fit the base model or the settings.
    """
    if settings.finetune == "full":
        _require(trained.folder / "mllm" / "config.json")
        tuned = read_layout(str(trained.folder / "mllm"))
        return make_trainable(load_llava(tuned, settings, on_host), layout, settings)
    adapter = trained.folder / "adapter"
    _require(adapter / "adapter_config.json")
    _require(adapter / "adapter_model.safetensors")
    try:
        state = load_file(adapter / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{adapter / 'adapter_model.safetensors'}: cannot be read ({error})"
        ) from None
    mllm = build_mllm(layout, settings, on_host)
    own = get_peft_model_state_dict(mllm.model)
    _refuse_different(adapter, own, state)
    set_peft_model_state_dict(mllm.model, state)
    return mllm


def _refuse_different(
    adapter: Path, own: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> None:
    # PEFT only warns about these, and leaves what is missing untrained.
    different = own.keys() ^ stored.keys()
    if different:
        raise CheckpointError(
            f"{adapter}: weights do not fit the model; missing or unexpected: "
            + ", ".join(sorted(different))
        )
    for name, value in stored.items():
        if own[name].shape != value.shape:
            raise CheckpointError(
                f"{adapter}: {name} has the shape {tuple(value.shape)}, the model "
                f"{tuple(own[name].shape)}; --lora_rank and --vlm_path must be those of the weights"
            )


def load_trained_segmentation(
    trained: TrainedFolder, prompt_dim: int, decoder_dropout: float, modalities: tuple[str, ...]
) -> SegmentationBranch:
    """The segmentation side with the weights of the folder.

    Args:
        prompt_dim: width of the language model.
        modalities: those of the folder first; the head's rows for further ones are new.

    Raises:
        CheckpointError: if the file cannot be read or does not fit.
    """
    file = trained.folder / "segmentation.safetensors"
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    prefix = "image_encoder."
    encoder_state = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    branch = SegmentationBranch(
        build_encoder(trained.settings.encoder_type, encoder_state, str(file)),
        prompt_dim,
        len(modalities),
        decoder_dropout,
    )
    _extend_head(state, branch, len(trained.modalities))
    load_strictly(branch, state, str(file))
    return branch


def _extend_head(state: dict[str, Tensor], branch: SegmentationBranch, stored: int) -> None:
    new = branch.state_dict()
    for name in ("cls.2.weight", "cls.2.bias"):
        if name in state and len(state[name]) == max(1, stored):
            state[name] = torch.cat([state[name][:stored], new[name][stored:]])
