"""A folder with everything that training changed, from which the model is built again.

::

    model.json                  format version, base model, modalities, validation scores
    settings.yaml               all settings of the run
    adapter/                    PEFT adapter (LoRA; projector too if trained), loads in plain PEFT
    mllm/                       instead of adapter/ after full fine-tuning: a transformers model
    segmentation.safetensors    encoder, mask decoder and modality head, fp32
    tokenizer/                  the base model's tokenizer

The base model's frozen weights are referred to, not copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prs_med.config import SettingError, Settings
from prs_med.model.encoders.files import load_strictly
from prs_med.model.encoders.registry import build_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout, stored_shapes
from prs_med.model.mllm import Mllm, load_llava
from prs_med.model.segmentation import SegmentationBranch
from prs_med.settings_io import load_settings, save_settings

FORMAT_VERSION = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model built from such a folder, in evaluation mode."""

    mllm: Mllm
    segmentation: SegmentationBranch
    layout: LlavaLayout
    settings: Settings
    modalities: tuple[str, ...]


def save_trained(
    folder: Path,
    mllm: Mllm,
    mllm_weights: Mapping[str, Tensor],
    segmentation_state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    modalities: tuple[str, ...],
    results: Mapping[str, Any],
) -> None:
    """Write ``folder``, replacing an older one as a whole.

    Args:
        mllm_weights: parameters of ``mllm`` by their names in it: the trained ones, or all of
            them after full fine-tuning.
        segmentation_state: full state of the segmentation branch.
        results: numbers to keep beside the weights, such as validation scores.
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
    (draft / "model.json").write_text(
        json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "base_model": settings.vlm_path,
                "modalities": list(modalities),
                "results": dict(results),
            },
            indent=2,
        )
    )
    _replace(draft, folder)


def _replace(draft: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_trained(folder: Path, vlm_path: str | None = None) -> TrainedModel:
    """Build the model that ``folder`` holds, ready for evaluation.

    Args:
        vlm_path: where the base model lies, if it has moved since training.

    Raises:
        CheckpointError: naming the file that is missing, corrupt or of another model.
    """
    about = _read_about(folder / "model.json")
    settings = _read_settings(folder / "settings.yaml")
    layout = read_layout(vlm_path or about["base_model"])
    mllm = _load_mllm(folder, layout, settings)
    modalities = tuple(about["modalities"])
    segmentation = _load_segmentation(folder, mllm, settings, len(modalities))
    return TrainedModel(mllm, segmentation, layout, settings, modalities)


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


def _load_mllm(folder: Path, layout: LlavaLayout, settings: Settings) -> Mllm:
    if settings.finetune == "full":
        _require(folder / "mllm" / "config.json")
        tuned = read_layout(str(folder / "mllm"))
        return Mllm(load_llava(tuned, settings), layout).eval()
    adapter = folder / "adapter"
    _require(adapter / "adapter_config.json")
    _require(adapter / "adapter_model.safetensors")
    try:
        model = PeftModel.from_pretrained(
            load_llava(layout, settings), str(adapter), autocast_adapter_dtype=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split("\n\t")[:2])
        raise CheckpointError(f"{adapter}: cannot be loaded ({reason})") from error
    # PEFT only warns about these, and leaves what is missing untrained.
    different = stored_shapes(adapter).keys() ^ get_peft_model_state_dict(model).keys()
    if different:
        raise CheckpointError(
            f"{adapter}: weights do not fit the model; missing or unexpected: "
            + ", ".join(sorted(different))
        )
    dtype = model.get_base_model().lm_head.weight.dtype
    # Not model.to(dtype): it would also round the rotary frequencies, which stay fp32 in training.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return Mllm(model, layout).eval()


def _load_segmentation(
    folder: Path, mllm: Mllm, settings: Settings, modalities: int
) -> SegmentationBranch:
    file = folder / "segmentation.safetensors"
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    prefix = "image_encoder."
    encoder_state = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    branch = SegmentationBranch(
        build_encoder(settings.encoder_type, encoder_state, str(file)),
        mllm.hidden_size,
        modalities,
        settings.decoder_dropout,
    )
    load_strictly(branch, state, str(file))
    return branch.eval()
