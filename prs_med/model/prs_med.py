"""The whole computation, once: used by training, validation and inference alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from prs_med.batch import Batch


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives."""

    mask_logits: Tensor
    """(B, 1, S, S) float32."""
    text_logits: Tensor
    """(N, V) in the language model's precision, at the supervised positions."""
    modality_logits: Tensor
    """(B, M) float32."""


def forward(
    mllm: Callable[..., tuple[Tensor, Tensor]],
    segmentation: Callable[..., tuple[Tensor, Tensor]],
    batch: Batch,
) -> Outputs:
    """One pass of the language model over image, question and answer feeds both branches.

    The language model is causal: hidden states of image and question do not depend on the answer
    behind them, so the mask branch computes in training what it computes at inference.
    ``mllm`` and ``segmentation`` are the modules of this package or engines around them.
    """
    sequences = (batch.input_ids, batch.attention_mask, batch.image_vlm, batch.label_index)
    packing = batch.packing
    if packing is None:
        hidden, text_logits = mllm(*sequences, batch.image_index)
        prompt = hidden[:, : batch.prompt_mask.shape[1]]
    else:
        hidden, text_logits = mllm(
            *sequences, packing.image_index, packing.position_ids, packing.segments
        )
        # Not index_select: its backward pass on a GPU adds up the gradients of the shared prefix in
        # another order each time.
        prompt = hidden.flatten(0, 1)[packing.prompt_index]
    height, width = batch.mask.shape[-2:]
    mask_logits, modality_logits = segmentation(
        batch.image_seg, prompt, batch.prompt_mask, (height, width), batch.image_index
    )
    return Outputs(mask_logits, text_logits, modality_logits)
