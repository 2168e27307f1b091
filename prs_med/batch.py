"""What the data side hands to the model side: one micro-batch of samples.

Shapes: B samples, V side of the CLIP tower's input, S side of the segmentation encoder's input,
T tokens of the longest sequence, P tokens of the longest prompt, N supervised tokens in all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

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
    """(B, 3, V, V) uint8."""
    image_seg: Tensor
    """(B, 3, S, S) uint8."""
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
    """(B,) float32, 1 for a sample that counts and 0 for filling at the end of an evaluation."""
    row_ids: tuple[str, ...]
    """B names of rows for messages, such as ``lung_CT.csv:12``."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return Batch(**moved, row_ids=self.row_ids)

    def __len__(self) -> int:
        return self.input_ids.shape[0]
