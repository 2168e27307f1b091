"""From a training checkpoint to a folder with trained weights, as inference loads it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prs_med.checkpoint.reader import CheckpointReader
from prs_med.config import SettingError, Settings
from prs_med.export.stored_weights import read_stored_weights
from prs_med.model.encoders.files import load_strictly
from prs_med.model.encoders.registry import build_encoder
from prs_med.model.errors import CheckpointError
from prs_med.model.fingerprint import check_same, frozen_fingerprint, language_model_fingerprint
from prs_med.model.initial_weights import (
    frozen_mllm_fingerprint,
    initial_mllm,
    initial_segmentation,
    new_segmentation,
)
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, add_lora, load_tokenizer
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import SPLIT, save_trained

_ENCODER = "image_encoder."
_FROZEN = "frozen segmentation side"
_FROZEN_MLLM = "frozen adapter"


def export_trained(reader: CheckpointReader, folder: Path, **moved: str | None) -> None:
    """Write the trained weights of a checkpoint to ``folder``, replacing an older one as a whole:
    the moving average, if one was kept, else the fp32 masters.

    Of the base model only the description is read, unless all of it was trained.

    Args:
        moved: where ``vlm_path``, ``vision_tower`` or ``sam_ckpt`` lie now, if not where they did.

    Raises:
        BrokenCheckpointError, StorageError: the checkpoint cannot be read.
        CheckpointError: the base model, or frozen weights that training started from, are gone or
            are others now.
    """
    state = reader.manifest.state
    settings = settings_of(reader, **moved)
    layout = read_layout(settings.vlm_path, settings.vision_tower)
    base = state["base"]
    kind = "language model"
    check_same(kind, language_model_fingerprint(layout), base[kind], reader.where)
    modalities = tuple(state["modalities"])
    stored = read_stored_weights(reader, average=settings.ema_decay > 0)
    save_trained(
        folder,
        _mllm(reader, layout, settings, stored.mllm),
        stored.mllm,
        _segmentation(reader, settings, layout, modalities, stored.segmentation).state_dict(),
        load_tokenizer(layout),
        settings,
        modalities,
        {"step": state["step"], **state["scores"]},
        reader.file(SPLIT),
    )


def settings_of(reader: CheckpointReader, **moved: str | None) -> Settings:
    """The settings that a checkpoint was trained with; ``moved`` as in :func:`export_trained`.

    Raises:
        CheckpointError: they are none of this version.
    """
    given = {name: value for name, value in moved.items() if value}
    try:
        return Settings(**{**reader.manifest.state["settings"], **given})
    except (SettingError, TypeError, KeyError) as error:
        raise CheckpointError(f"{reader.where}: its settings cannot be used ({error})") from None


def _mllm(
    reader: CheckpointReader, layout: LlavaLayout, settings: Settings, weights: dict[str, Tensor]
) -> Mllm:
    """The language model for its description; with all weights where all are written."""
    if settings.finetune == "lora":
        with torch.device("meta"):
            empty = LlavaForConditionalGeneration(layout.config)
        return Mllm(add_lora(empty, settings), layout)
    mllm = initial_mllm(settings, layout)
    expected = reader.manifest.state["base"][_FROZEN_MLLM]
    check_same(_FROZEN_MLLM, frozen_mllm_fingerprint(mllm, settings), expected, reader.where)
    for name, parameter in mllm.named_parameters():
        weights.setdefault(name, parameter.detach())
        weights[name] = weights[name].to(parameter.dtype)
    return mllm


def _segmentation(
    reader: CheckpointReader,
    settings: Settings,
    layout: LlavaLayout,
    modalities: tuple[str, ...],
    stored: dict[str, Tensor],
) -> SegmentationBranch:
    """The segmentation side; what was never trained comes from where training took it."""
    width = layout.config.text_config.hidden_size
    expected = reader.manifest.state["base"][_FROZEN]
    if not settings.freeze_encoder:
        # Mostly all that is frozen is alike in every new branch, and no file is needed for it.
        state = {n.removeprefix(_ENCODER): v for n, v in stored.items() if n.startswith(_ENCODER)}
        encoder = build_encoder(settings.encoder_type, state, reader.where)
        branch = new_segmentation(encoder, settings, width, modalities)
        if frozen_fingerprint(branch) == expected:
            return _with(branch, stored, reader.where)
    branch = initial_segmentation(settings, width, modalities)
    check_same(_FROZEN, frozen_fingerprint(branch), expected, reader.where)
    return _with(branch, stored, reader.where)


def _with(branch: SegmentationBranch, stored: dict[str, Tensor], where: str) -> SegmentationBranch:
    """The branch with the weights of the checkpoint; the rest of it must be frozen."""
    frozen = {n: p.detach() for n, p in branch.named_parameters() if not p.requires_grad}
    load_strictly(branch, frozen | stored, where)
    return branch
