"""What the data side hands to the model side: one micro-batch of samples.

Shapes: B samples (questions), I images that they ask about (I <= B), R sequences of the language
model (R = B, unless questions share one), V side of the CLIP tower's input, S side of the
segmentation encoder's input, T tokens of the longest sequence, P tokens of the longest prompt, N
supervised tokens in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

IMAGE_TOKEN = -200
"""Stands in ``input_ids`` for one image feature; no vocabulary has it (the original's sentinel)."""

UNKNOWN_MODALITY = -1
"""Modality label of a sample whose modality the model does not know; trains nothing."""


PREFIX, PADDING = 0, -1
"""Segments of a shared sequence that are no question's own."""


@dataclass(frozen=True)
class Packing:
    """How several questions about an image lie in one sequence of the language model: what their
    prompts begin with once, and behind it each question's own tokens with its answer."""

    position_ids: Tensor
    """(R, T) int64; those of each question's own tokens go on from the prefix."""
    segments: Tensor
    """(R, T) int64: :data:`PREFIX`, 1 and up for the own tokens of one question each, or
    :data:`PADDING`."""
    image_index: Tensor
    """(R,) int64, the image of each sequence."""
    prompt_index: Tensor
    """(B, P) int64, positions in the flattened (R·T) sequences of each sample's prompt, prefix
    included; 0 at padding."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Every tensor leaves the loader as small as it can be (uint8 pixels)."""

    image_vlm: Tensor
    """(I, 3, V, V) uint8."""
    image_seg: Tensor
    """(I, 3, S, S) uint8."""
    image_index: Tensor | None
    """(B,) int64, the image that each sample asks about; None where each has one of its own."""
    mask: Tensor
    """(B, 1, S, S) uint8, 0 or 1."""
    input_ids: Tensor
    """(R, T) int64, padded on the right; :data:`IMAGE_TOKEN` where image features go."""
    attention_mask: Tensor
    """(R, T) bool, False at padding."""
    prompt_mask: Tensor
    """(B, P) bool, True at the positions whose hidden states the mask decoder sees."""
    label_index: Tensor
    """(N,) int64, positions in the flattened (R·T) sequences that predict ``labels``."""
    labels: Tensor
    """(N,) int64, answer tokens and end tokens."""
    label_sample: Tensor
    """(N,) int64, the sample that each label belongs to."""
    modality: Tensor
    """(B,) int64, index into the vocabulary or :data:`UNKNOWN_MODALITY`."""
    weight: Tensor
    """(B,) float32: 1, or one nth for each of the n samples of an image in batches by image; 0 for
    filling at the end of an evaluation."""
    row_ids: tuple[str, ...]
    """B names of rows for messages, such as ``lung_CT.csv:12``."""
    packing: Packing | None = None
    """None where each sample has a sequence of its own."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which is copied to a GPU in the background."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Batch:
        packing = None if self.packing is None else _with_tensors(self.packing, move)
        return replace(_with_tensors(self, move), packing=packing)

    def __len__(self) -> int:
        return len(self.row_ids)


_Record = TypeVar("_Record", Batch, Packing)


def _with_tensors(record: _Record, move: Callable[[Tensor], Tensor]) -> _Record:
    moved: dict[str, Any] = {
        field.name: move(value)
        for field in fields(record)
        if isinstance(value := getattr(record, field.name), Tensor)
    }
    return replace(record, **moved)
