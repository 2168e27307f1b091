"""The model that training starts from, as the settings describe it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from prs_med.config import SettingError, Settings
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.fingerprint import frozen_fingerprint
from prs_med.model.llava_layouts import LlavaLayout
from prs_med.model.mllm import Mllm, build_mllm
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import (
    TrainedFolder,
    load_trained_mllm,
    load_trained_segmentation,
    open_trained,
)


def initial_modalities(settings: Settings, of_the_data: tuple[str, ...]) -> tuple[str, ...]:
    """Classes of the modality head: those of ``--init_from`` first, then new ones of the data.

    Raises:
        SettingError, CheckpointError: ``--init_from`` cannot be used with the settings.
    """
    if not settings.init_from:
        return of_the_data
    known = _trained(settings).modalities
    return (*known, *(name for name in of_the_data if name not in known))


def initial_mllm(settings: Settings, layout: LlavaLayout, on_host: bool = False) -> Mllm:
    """The language model, trainable as the settings say; ``on_host`` as of
    :func:`prs_med.model.llava_loading.load_llava`.

    Raises:
        CheckpointError: weights are missing or do not fit.
    """
    if settings.init_from:
        mllm = load_trained_mllm(_trained(settings), layout, settings, on_host)
    else:
        mllm = build_mllm(layout, settings, on_host)
    if settings.freeze_mllm:
        mllm.requires_grad_(False)
    return mllm


def initial_segmentation(
    settings: Settings, prompt_dim: int, modalities: tuple[str, ...]
) -> SegmentationBranch:
    """The segmentation side, trainable as the settings say; ``prompt_dim`` is the width of the
    language model.

    Raises:
        CheckpointError: weights are missing or do not fit.
    """
    if settings.init_from:
        branch = load_trained_segmentation(
            _trained(settings), prompt_dim, settings.decoder_dropout, modalities
        )
    else:
        encoder = load_encoder(settings.encoder_type, settings.sam_ckpt)
        branch = new_segmentation(encoder, settings, prompt_dim, modalities)
    return _as_told(branch, settings)


def new_segmentation(
    encoder: nn.Module, settings: Settings, prompt_dim: int, modalities: tuple[str, ...]
) -> SegmentationBranch:
    """An encoder with a new mask decoder and modality head, trainable as the settings say.

    The new weights depend on ``--seed`` alone, not on what was drawn before: what of them is never
    trained is in no checkpoint, and an export draws it again.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        branch = SegmentationBranch(encoder, prompt_dim, len(modalities), settings.decoder_dropout)
    return _as_told(branch, settings)


def _as_told(branch: SegmentationBranch, settings: Settings) -> SegmentationBranch:
    if settings.freeze_encoder:
        branch.freeze_encoder()
    if settings.freeze_decoder:
        branch.freeze_decoder()
    if settings.encoder_checkpointing:
        branch.recompute_encoder()
    if settings.segmentation_precision == "bf16":
        branch.compute_in_bf16()
    return branch


def frozen_adapter(mllm: Mllm) -> dict[str, Tensor]:
    """Parameters of an adapter that is not trained, float32 on the host, by their names."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True)
        for name, parameter in mllm.named_parameters()
        if _is_of_adapter(name) and not parameter.requires_grad
    }


def frozen_mllm_fingerprint(mllm: Mllm, settings: Settings) -> dict[str, str]:
    """What is frozen of the language model and did not come from the base model's files."""
    all_from_elsewhere = settings.finetune == "full" and settings.init_from
    frozen = frozen_fingerprint(mllm)
    return {n: value for n, value in frozen.items() if all_from_elsewhere or _is_of_adapter(n)}


def _is_of_adapter(name: str) -> bool:
    """Whether a parameter of the language model is one that PEFT added or took over."""
    return "lora_" in name or "modules_to_save" in name


def _trained(settings: Settings) -> TrainedFolder:
    trained = open_trained(Path(settings.init_from or ""))
    for name in ("encoder_type", "finetune"):
        theirs, ours = getattr(trained.settings, name), getattr(settings, name)
        if theirs != ours:
            raise SettingError(f"--{name} {ours}: the weights in --init_from are of {theirs}")
    return trained
