"""Segmentation encoders by the name of their family.

The module ``prs_med.model.encoders.NAME`` defines ``FAMILY``; NAME stands in
:data:`prs_med.config.ENCODERS` with its input sizes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from prs_med.config import ENCODERS
from prs_med.model.encoders.family import EncoderFamily
from prs_med.model.encoders.files import load_strictly, read_state_dict
from prs_med.model.errors import CheckpointError


def encoder_family(encoder_type: str) -> EncoderFamily:
    """The family of that name.

    Raises:
        ValueError: if it is none of :data:`prs_med.config.ENCODERS`.
    """
    if encoder_type not in ENCODERS:
        raise ValueError(f"--encoder_type {encoder_type}: must be one of {', '.join(ENCODERS)}")
    module = importlib.import_module(f"prs_med.model.encoders.{encoder_type}")
    found: EncoderFamily = module.FAMILY
    return found


def load_encoder(encoder_type: str, path: str) -> nn.Module:
    """The encoder in a published file.

    Raises:
        CheckpointError: if the file cannot be read, is of another family, or does not fit.
    """
    return encoder_from_published(encoder_type, read_state_dict(Path(path)), path)


def encoder_from_published(encoder_type: str, whole: Mapping[str, Tensor], where: str) -> nn.Module:
    """The encoder among the tensors of a published file, which are named as in it.

    Raises:
        CheckpointError: if they are of another family, or do not fit.
    """
    family = encoder_family(encoder_type)
    if not family.recognises(whole):
        raise CheckpointError(_not_recognised(encoder_type, whole, where))
    return build_encoder(encoder_type, family.encoder_state(whole, where), where)


def build_encoder(encoder_type: str, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """The encoder with exactly the weights of ``state``, its own state dict, from ``where``.

    Raises:
        CheckpointError: if the weights do not fit the family.
    """
    family = encoder_family(encoder_type)
    try:
        encoder = family.build(state)
    except KeyError as error:
        raise CheckpointError(
            f"{where}: no encoder of type {family.title}, {error.args[0]} is missing"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None
    load_strictly(encoder, state, where)
    return encoder


def _not_recognised(encoder_type: str, whole: Mapping[str, Tensor], where: str) -> str:
    wanted = f"not a file of {encoder_family(encoder_type).title}"
    for name in ENCODERS:
        family = encoder_family(name)
        if family.recognises(whole):
            return (
                f"{where}: {wanted} (--encoder_type {encoder_type}) but of {family.title}: "
                f"use --encoder_type {name}"
            )
    return f"{where}: {wanted} nor of any other known encoder; it holds " + ", ".join(
        [*list(whole)[:3], "..."]
    )
