"""Which positions are taught, and which the mask decoder sees."""

from __future__ import annotations

from dataclasses import replace

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


def test_a_batch_holds_each_image_once_and_each_sample_in_its_order() -> None:
    one, other, third = (
        replace(
            sample([1, 10 + n], [20, 2]),
            image_vlm=torch.full((3, 2, 2), n, dtype=torch.uint8),
            image_seg=torch.full((3, 4, 4), 10 + n, dtype=torch.uint8),
            mask=torch.full((1, 4, 4), n % 2, dtype=torch.uint8),
            modality=n - 1,
            weight=0.25 * n,
            row_id=f"a.csv:{n}",
        )
        for n in range(3)
    )
    # Another question about the image of the first.
    other = replace(other, image_vlm=one.image_vlm, image_seg=one.image_seg)
    batch = Collator(0, "question")([one, other, third])
    assert batch.image_vlm[:, 0, 0, 0].tolist() == [0, 2]
    assert batch.image_seg[:, 0, 0, 0].tolist() == [10, 12]
    assert batch.image_index.tolist() == [0, 0, 1]
    assert batch.mask[:, 0, 0, 0].tolist() == [0, 1, 0]
    assert batch.modality.tolist() == [-1, 0, 1]
    assert batch.weight.tolist() == [0, 0.25, 0.5]
    assert batch.row_ids == ("a.csv:0", "a.csv:1", "a.csv:2")
    assert batch.packing is None
    shapes = (batch.image_vlm.shape, batch.image_seg.shape, batch.mask.shape)
    assert shapes == ((2, 3, 2, 2), (2, 3, 4, 4), (3, 1, 4, 4))
    assert {t.dtype for t in (batch.image_vlm, batch.image_seg, batch.mask)} == {torch.uint8}


def test_where_each_sample_has_its_own_image_none_is_looked_up() -> None:
    assert Collator(0, "question")(SAMPLES).image_index is None


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
