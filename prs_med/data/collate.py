"""From samples to one batch: padding, and where which token is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from prs_med.batch import PADDING, Batch, Packing
from prs_med.data.samples import Sample
from prs_med.data.sequences import TokenSequence, lay_out
from prs_med.data.shared_prefix import shared_sequences


class Collator:
    """Stacks samples; sequences are padded on the right.

    Samples that share an image's tensors share its place in the batch."""

    def __init__(
        self,
        pad_token: int,
        prompt_tokens: Literal["question", "all"],
        share_image_prefix: bool = False,
    ) -> None:
        """``prompt_tokens``: whether the mask decoder sees only image and question, or all;
        ``share_image_prefix``: whether samples of an image share a sequence, or each has its own.
        """
        self._pad_token = pad_token
        self._prompt_tokens = prompt_tokens
        self._share_image_prefix = share_image_prefix

    def __call__(self, samples: list[Sample]) -> Batch:
        """The batch of ``samples``."""
        images = {id(s.image_vlm): s for s in samples}
        places = {key: place for place, key in enumerate(images)}
        index = [places[id(s.image_vlm)] for s in samples]
        texts = [s.text for s in samples]
        sequences = self._sequences(samples, index)
        tokens = lay_out(texts, sequences, self._pad_token)
        labels = [torch.tensor(t.ids[t.prompt_length :]) for t in texts]
        # The hidden state before a token predicts it.
        predicting = [
            p[t.prompt_length - 1 : -1] for p, t in zip(tokens.places, texts, strict=True)
        ]
        seen = [
            p[: t.prompt_length if self._prompt_tokens == "question" else None]
            for p, t in zip(tokens.places, texts, strict=True)
        ]
        packing = Packing(
            position_ids=tokens.position_ids,
            segments=tokens.segments,
            image_index=torch.tensor([sequence.image for sequence in sequences]),
            prompt_index=pad_sequence(seen, batch_first=True),
        )
        return Batch(
            image_vlm=torch.stack([s.image_vlm for s in images.values()]),
            image_seg=torch.stack([s.image_seg for s in images.values()]),
            image_index=torch.tensor(index) if len(images) < len(samples) else None,
            mask=torch.stack([s.mask for s in samples]),
            input_ids=tokens.input_ids,
            attention_mask=tokens.segments != PADDING,
            prompt_mask=pad_sequence([torch.ones_like(s, dtype=torch.bool) for s in seen], True),
            label_index=torch.cat(predicting),
            labels=torch.cat(labels),
            label_sample=torch.arange(len(samples)).repeat_interleave(
                torch.tensor([len(own) for own in labels])
            ),
            modality=torch.tensor([s.modality for s in samples]),
            weight=torch.tensor([s.weight for s in samples]),
            row_ids=tuple(s.row_id for s in samples),
            packing=packing if self._share_image_prefix else None,
        )

    def _sequences(self, samples: Sequence[Sample], images: Sequence[int]) -> list[TokenSequence]:
        if self._share_image_prefix:
            return shared_sequences([s.text for s in samples], images)
        return [TokenSequence(image, 0, (sample,)) for sample, image in enumerate(images)]
