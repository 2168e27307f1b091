"""Questions that share a sequence: every sample is found again in it, and sees itself alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prs_med.batch import IMAGE_TOKEN, PADDING, PREFIX, Batch
from prs_med.data.collate import Collator
from prs_med.data.prompt import EncodedText
from prs_med.data.samples import Sample
from prs_med.data.shared_prefix import shared_sequences
from prs_med.model.shared_prefix import shared_prefix_mask

IMAGE_TOKENS = 4
END, PAD = 2, 9
TOKENS = st.integers(5, 7)
"""Few, so that questions often begin alike, or are equal."""


@st.composite
def texts(draw: st.DrawFn) -> EncodedText:
    head = draw(st.sampled_from([(1,), (1,), (1, 5), ()]))
    question = draw(st.lists(TOKENS, min_size=1, max_size=6))
    answer = draw(st.lists(TOKENS, max_size=4))
    prompt = (*head, *[IMAGE_TOKEN] * IMAGE_TOKENS, *question)
    return EncodedText((*prompt, *answer, END), len(prompt))


IMAGES = st.lists(st.lists(texts(), min_size=1, max_size=5), min_size=1, max_size=4)
"""The questions of each image of a batch."""


def collated(images: list[list[EncodedText]], prompt_tokens: str, share: bool = True) -> Batch:
    samples = []
    for questions in images:
        pixels = torch.zeros(3, 2, 2, dtype=torch.uint8)
        for text in questions:
            samples.append(
                Sample(
                    image_vlm=pixels,
                    image_seg=pixels,
                    mask=torch.zeros(1, 2, 2, dtype=torch.uint8),
                    text=text,
                    question="",
                    answer="",
                    modality=0,
                    row_id="a.csv:2",
                    weight=1 / len(questions),
                )
            )
    return Collator(PAD, prompt_tokens, share)(samples)


@given(images=IMAGES)
def test_each_sample_is_found_again(images: list[list[EncodedText]]) -> None:
    batch = collated(images, "all")
    flat, positions = batch.input_ids.flatten(), batch.packing.position_ids.flatten()
    samples = [text for questions in images for text in questions]
    for text, places, mask in zip(
        samples, batch.packing.prompt_index, batch.prompt_mask, strict=True
    ):
        assert flat[places[mask]].tolist() == list(text.ids)
        assert positions[places[mask]].tolist() == list(range(len(text.ids)))


@given(images=IMAGES)
def test_each_token_sees_its_own_sample_up_to_itself(images: list[list[EncodedText]]) -> None:
    batch = collated(images, "all")
    packing = batch.packing
    length = batch.input_ids.shape[1]
    sees = shared_prefix_mask(packing.segments, packing.position_ids, None)[:, 0]
    for places, mask in zip(packing.prompt_index, batch.prompt_mask, strict=True):
        rows, columns = places[mask] // length, places[mask] % length
        assert len(rows.unique()) == 1
        for number, column in enumerate(columns):
            found = sees[rows[0], column].nonzero().flatten().tolist()
            assert found == columns[: number + 1].tolist()
    # A softmax over nothing would not be a number.
    assert sees.any(-1).all()


def test_with_a_window_a_token_sees_as_many_positions_back() -> None:
    batch = collated([[text([5, 6, 7], [5]), text([5, 6, 6], [6])]], "all")
    packing = batch.packing
    sees = shared_prefix_mask(packing.segments, packing.position_ids, 3)[0, 0]
    # Seven tokens of both, then 7 5 </s> of the first and 6 6 </s> of the second.
    assert batch.packing.segments.tolist() == [[PREFIX] * 7 + [1] * 3 + [2] * 3]
    seen = [row.nonzero().flatten().tolist() for row in sees]
    assert seen[:3] == [[0], [0, 1], [0, 1, 2]]
    assert seen[7:10] == [[5, 6, 7], [6, 7, 8], [7, 8, 9]]
    assert seen[10:] == [[5, 6, 10], [6, 10, 11], [10, 11, 12]]


@given(images=IMAGES)
def test_labels_and_prompts_are_those_of_samples_apart(images: list[list[EncodedText]]) -> None:
    together, apart = collated(images, "question"), collated(images, "question", share=False)
    assert apart.packing is None
    for name in ("labels", "label_sample", "prompt_mask", "weight"):
        assert torch.equal(getattr(together, name), getattr(apart, name))
    places = together.packing.prompt_index[together.prompt_mask]
    prompts = apart.input_ids[:, : apart.prompt_mask.shape[1]][apart.prompt_mask]
    assert torch.equal(together.input_ids.flatten()[places], prompts)
    # What predicts is the token before, which no two samples share.
    before = [together.input_ids.flatten()[together.label_index]]
    assert torch.equal(before[0], apart.input_ids.flatten()[apart.label_index])
    assert len(together.label_index.unique()) == len(together.label_index)


@given(images=IMAGES)
def test_sequences_hold_one_image_and_never_more_tokens(images: list[list[EncodedText]]) -> None:
    together, apart = collated(images, "question"), collated(images, "question", share=False)
    assert together.input_ids.numel() <= apart.input_ids.numel()
    assert ((together.input_ids == IMAGE_TOKEN).sum(1) == IMAGE_TOKENS).all()
    segments = together.packing.segments
    assert torch.equal(together.attention_mask, segments != PADDING)
    assert (together.input_ids[segments == PADDING] == PAD).all()
    # A sample's sequence has the sample's image.
    for sample, places in enumerate(together.packing.prompt_index):
        row = places[0] // segments.shape[1]
        image = sample if together.image_index is None else together.image_index[sample]
        assert together.packing.image_index[row] == image


def text(question: list[int], answer: list[int], head: tuple[int, ...] = (1,)) -> EncodedText:
    prompt = (*head, *[IMAGE_TOKEN] * IMAGE_TOKENS, *question)
    return EncodedText((*prompt, *answer, END), len(prompt))


def test_what_the_prompts_begin_with_is_there_once() -> None:
    questions = [text([5, 6, 7], [5]), text([5, 6, 6], [6, 6]), text([5, 7], [7])]
    batch = collated([questions], "question")
    image = [IMAGE_TOKEN] * IMAGE_TOKENS
    own = [[6, 7, 5, END], [6, 6, 6, 6, END], [7, 7, END]]
    assert batch.input_ids.tolist() == [[1, *image, 5, *own[0], *own[1], *own[2]]]
    assert batch.packing.segments.tolist() == [[PREFIX] * 6 + [1] * 4 + [2] * 5 + [3] * 3]
    assert batch.packing.position_ids.tolist() == [
        [*range(6), *range(6, 10), *range(6, 11), *range(6, 9)]
    ]


def test_a_batch_moves_as_a_whole() -> None:
    batch = collated([[text([5], [5]), text([6], [7])]], "question")
    moved = batch.to(torch.device("meta"))
    for record in (moved, moved.packing):
        tensors = [value for value in vars(record).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) >= 4
        assert all(tensor.is_meta for tensor in tensors)
    assert len(moved) == len(batch) == 2


def test_equal_questions_keep_the_token_that_predicts() -> None:
    batch = collated([[text([5, 6], [5]), text([5, 6], [7])]], "question")
    assert batch.input_ids[0].tolist()[-6:] == [6, 5, END, 6, 7, END]


def test_prompts_that_differ_before_the_image_have_sequences_of_their_own() -> None:
    questions = [text([5], [5]), text([5], [6], head=(1, 5)), text([6], [7])]
    batch = collated([questions], "question")
    assert batch.packing.image_index.tolist() == [0, 0]
    assert batch.packing.segments.max(1).values.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        ([3, 3, 3], [(0, 1, 2), (3, 4, 5), (6, 7, 8)]),
        # In one sequence, the nine would stretch those of the others with padding.
        ([1, 1, 1, 1, 9], [(0,), (1,), (2,), (3,), (4, 5, 6), (7, 8, 9), (10, 11, 12)]),
    ],
)
def test_an_image_with_many_questions_does_not_stretch_the_others(
    questions: list[int], expected: list[tuple[int, ...]]
) -> None:
    samples = [text([5, 6], [7]) for count in questions for _ in range(count)]
    images = [image for image, count in enumerate(questions) for _ in range(count)]
    found = shared_sequences(samples, images)
    assert [sequence.samples for sequence in found] == expected
