"""Scores of validation answers, whose masks are in the geometry of the encoder's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prs_med.data.answer_position import ENGLISH
from prs_med.data.prompt import EncodedText
from prs_med.data.samples import Sample
from prs_med.train.validation_answers import _scores_of_answer


def sample(answer: str) -> Sample:
    """A mask that lies in the top left of the square that the encoder sees."""
    mask = torch.zeros(1, 40, 40, dtype=torch.uint8)
    mask[0, 2:8, 2:8] = 1
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    text = EncodedText((1,), 1)
    return Sample(image, image, mask, text, "Where is it?", answer, 0, "a.csv:2", 1.0)


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        # Of the image, padded at its top, the structure is in the bottom left.
        ("It is in the bottom left.", "It is in the bottom left.", True),
        ("It is in the bottom left.", "It is in the top left.", False),
        # Without a place in the reference answer nothing else than the mask tells it.
        ("Here it is.", "It is in the top left.", True),
    ],
)
def test_a_reference_answer_tells_the_place_in_the_image(
    reference: str, answer: str, correct: bool
) -> None:
    scores = _scores_of_answer(sample(reference), answer, np.zeros((40, 40), bool), ENGLISH)
    assert scores["val_zone_accuracy"] is correct
