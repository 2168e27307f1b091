"""Which positions are taught, and which the mask decoder sees."""

from __future__ import annotations

import torch

from prs_med.data.collate import Collator
from prs_med.data.prompt import EncodedText
from prs_med.data.samples import Sample


def sample(prompt: list[int], answer: list[int]) -> Sample:
    return Sample(
        image_vlm=torch.zeros(3, 2, 2, dtype=torch.uint8),
        image_seg=torch.zeros(3, 4, 4, dtype=torch.uint8),
        mask=torch.zeros(1, 4, 4, dtype=torch.uint8),
        text=EncodedText((*prompt, *answer), len(prompt)),
        question="",
        answer="",
        modality=0,
        row_id="a.csv:2",
        weight=1.0,
    )


SAMPLES = [sample([1, 10, 11], [20, 21, 2]), sample([1, 12, 13, 14, 15], [22, 2])]


def test_answer_and_end_token_are_taught_and_nothing_else() -> None:
    batch = Collator(0, "question")(SAMPLES)
    assert batch.labels.tolist() == [20, 21, 2, 22, 2]
    assert batch.label_sample.tolist() == [0, 0, 0, 1, 1]
    flat = batch.input_ids.flatten()
    # Each label is the token behind the position that predicts it.
    assert torch.equal(flat[batch.label_index + 1], batch.labels)
    assert not (batch.labels == 0).any()


def test_the_mask_decoder_sees_image_and_question_only() -> None:
    batch = Collator(0, "question")(SAMPLES)
    assert batch.prompt_mask.sum(1).tolist() == [3, 5]
    assert batch.prompt_mask.shape == (2, 5)
    seen = batch.input_ids[:, :5][batch.prompt_mask]
    assert seen.tolist() == [1, 10, 11, 1, 12, 13, 14, 15]


def test_all_tokens_on_request() -> None:
    batch = Collator(0, "all")(SAMPLES)
    assert batch.prompt_mask.sum(1).tolist() == [6, 7]
    assert torch.equal(batch.prompt_mask, batch.attention_mask)


def test_padding_is_masked() -> None:
    batch = Collator(9, "question")(SAMPLES)
    assert batch.input_ids[0].tolist() == [1, 10, 11, 20, 21, 2, 9]
    assert batch.attention_mask[0].tolist() == [True] * 6 + [False]
