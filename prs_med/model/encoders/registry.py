"""Which segmentation encoders there are.

An encoder is a module from (B, 3, S, S) float32, normalised, to (B, 256, h, w) features, with the
attributes ``pixel_mean`` and ``pixel_std`` (three numbers each, for pixels in 0..1). A new one is
a file in this package and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from prs_med.model.encoders.tinysam import load_tinysam, tinysam_from_state


@dataclass(frozen=True)
class EncoderFamily:
    """How encoders of one family are made."""

    load: Callable[[Path], nn.Module]
    """From the file that the family is published as."""
    from_state: Callable[[Mapping[str, Tensor], str], nn.Module]
    """From the encoder's own state dict (and a name for it in errors)."""


ENCODERS = {"tinysam": EncoderFamily(load_tinysam, tinysam_from_state)}


def load_encoder(encoder_type: str, path: str) -> nn.Module:
    """The encoder in a published file.

    Raises:
        ValueError: if there is no such family.
        CheckpointError: if the file cannot be read or does not fit the family.
    """
    return _family(encoder_type).load(Path(path))


def build_encoder(encoder_type: str, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """The encoder with the weights of ``state``, which comes from ``where``.

    Raises:
        ValueError: if there is no such family.
        CheckpointError: if the weights do not fit the family.
    """
    return _family(encoder_type).from_state(state, where)


def _family(encoder_type: str) -> EncoderFamily:
    if encoder_type not in ENCODERS:
        raise ValueError(f"--encoder_type {encoder_type}: must be one of {', '.join(ENCODERS)}")
    return ENCODERS[encoder_type]
