"""A folder with everything that training changed, from which the model is built again.

::

    model.json                  format version, base model, modalities, how the model was trained
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

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prs_med.config import Settings
from prs_med.model.encoders.registry import build_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout, read_layout
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
        mllm_weights: trained parameters of ``mllm`` by their names in it.
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
        whole = {**mllm.llava.state_dict(), **weights}
        mllm.llava.save_pretrained(
            str(draft / "mllm"), state_dict=whole, save_original_format=False
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
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder}: no trained model ({error})") from None
    if about.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / 'model.json'}: format version {about.get('format_version')!r}; "
            f"this program reads {FORMAT_VERSION}"
        )
    settings = load_settings(folder / "settings.yaml")
    layout = read_layout(vlm_path or about["base_model"])
    mllm = _load_mllm(folder, layout, settings)
    modalities = tuple(about["modalities"])
    segmentation = _load_segmentation(folder, mllm, settings, len(modalities))
    return TrainedModel(mllm, segmentation, layout, settings, modalities)


def _load_mllm(folder: Path, layout: LlavaLayout, settings: Settings) -> Mllm:
    if settings.finetune == "full":
        tuned = read_layout(str(folder / "mllm"))
        return Mllm(load_llava(tuned, settings), layout).eval()
    try:
        model = PeftModel.from_pretrained(
            load_llava(layout, settings), str(folder / "adapter"), autocast_adapter_dtype=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'adapter'}: cannot be loaded ({error})") from error
    return Mllm(model.to(mllm_dtype(model)), layout).eval()


def mllm_dtype(model: Any) -> Any:
    """The precision that the language model computes in."""
    return model.get_base_model().lm_head.weight.dtype


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
    try:
        branch.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return branch.eval()
