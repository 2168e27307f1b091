"""What the data side hands to the model side: one micro-batch of samples.

Shapes: B samples (questions), I images that they ask about (I <= B), V side of the CLIP tower's
input, S side of the segmentation encoder's input, T tokens of the longest sequence, P tokens of the
longest prompt, N supervised tokens in all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

IMAGE_TOKEN = -200
"""Stands in ``input_ids`` for one image feature; no vocabulary has it (the original's sentinel)."""

UNKNOWN_MODALITY = -1
"""Modality label of a sample whose modality the model does not know; trains nothing."""


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
    """(B, T) int64, padded on the right; :data:`IMAGE_TOKEN` where image features go."""
    attention_mask: Tensor
    """(B, T) bool, False at padding."""
    prompt_mask: Tensor
    """(B, P) bool, True at the positions whose hidden states the mask decoder sees."""
    label_index: Tensor
    """(N,) int64, positions in the flattened (B·T) sequence that predict ``labels``."""
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

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which is copied to a GPU in the background."""
        pinned: dict[str, Any] = {
            field.name: value.pin_memory()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **pinned)

    def __len__(self) -> int:
        return self.input_ids.shape[0]
