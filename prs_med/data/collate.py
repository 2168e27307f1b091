"""From samples to one batch: padding, and where which token is predicted."""

from __future__ import annotations

from typing import Literal

import torch

from prs_med.batch import Batch
from prs_med.data.samples import Sample


class Collator:
    """Stacks samples; sequences are padded on the right.

    Samples that share an image's tensors share its place in the batch."""

    def __init__(self, pad_token: int, prompt_tokens: Literal["question", "all"]) -> None:
        """``prompt_tokens``: whether the mask decoder sees only image and question, or all."""
        self._pad_token = pad_token
        self._prompt_tokens = prompt_tokens

    def __call__(self, samples: list[Sample]) -> Batch:
        """The batch of ``samples``."""
        longest = max(len(s.text.ids) for s in samples)
        input_ids = torch.full((len(samples), longest), self._pad_token)
        attention_mask = torch.zeros(len(samples), longest, dtype=torch.bool)
        prompt_mask = torch.zeros(len(samples), longest, dtype=torch.bool)
        label_index, labels, label_sample = [], [], []
        for row, sample in enumerate(samples):
            ids, prompt_length = sample.text.ids, sample.text.prompt_length
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = True
            prompt_mask[row, : prompt_length if self._prompt_tokens == "question" else None] = True
            # The hidden state before a token predicts it.
            first = row * longest + prompt_length - 1
            label_index.append(torch.arange(first, first + len(ids) - prompt_length))
            labels.append(torch.tensor(ids[prompt_length:]))
            label_sample.append(torch.full((len(ids) - prompt_length,), row))
        prompt_mask &= attention_mask
        longest_prompt = int(prompt_mask.sum(1).max())
        images = {id(s.image_vlm): s for s in samples}
        places = {key: place for place, key in enumerate(images)}
        index = torch.tensor([places[id(s.image_vlm)] for s in samples])
        return Batch(
            image_vlm=torch.stack([s.image_vlm for s in images.values()]),
            image_seg=torch.stack([s.image_seg for s in images.values()]),
            image_index=index if len(images) < len(samples) else None,
            mask=torch.stack([s.mask for s in samples]),
            input_ids=input_ids,
            attention_mask=attention_mask,
            prompt_mask=prompt_mask[:, :longest_prompt],
            label_index=torch.cat(label_index),
            labels=torch.cat(labels),
            label_sample=torch.cat(label_sample),
            modality=torch.tensor([s.modality for s in samples]),
            weight=torch.tensor([s.weight for s in samples]),
            row_ids=tuple(s.row_id for s in samples),
        )
