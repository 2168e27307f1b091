"""Scores of the places in answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.position import ZONES, Position, describe, position_of
from prs_med.data.position_words import position_words
from prs_med.evaluate.position_scores import (
    UNCLEAR,
    ConfusionMatrix,
    PositionScores,
    position_scores,
)

EMPTY = np.zeros((60, 60), bool)


def mask(zone: str, near: bool = False) -> np.ndarray:
    """A box in a zone, near the centre or not."""
    result = EMPTY.copy()
    if zone == "center":
        result[25:35, 25:35] = True
    else:
        vertical, horizontal = zone.split()
        first = 20 if near else 4
        rows = slice(first, first + 6) if vertical == "top" else slice(54 - first, 60 - first)
        columns = slice(first, first + 6) if horizontal == "left" else slice(54 - first, 60 - first)
        result[rows, columns] = True
    assert position_of(result) == Position(zone, near or zone == "center")
    return result


def scores(
    answer: str, reference: str, truth: np.ndarray = EMPTY, predicted: np.ndarray = EMPTY
) -> PositionScores:
    return position_scores(answer, reference, truth, predicted)


@settings(max_examples=60)
@given(*[st.sampled_from(ZONES)] * 3, st.booleans(), st.booleans())
def test_an_answer_by_the_rule(
    true: str, said: str, drawn: str, near: bool, said_near: bool
) -> None:
    near, said_near = near or true == "center", said_near or said == "center"
    answer = describe("tumor", Position(said, said_near))
    found = scores(answer, describe("tumor", Position(true, near)), mask(true, near), mask(drawn))
    assert found == PositionScores(
        true_zones=(true,),
        answered_zones=(said,),
        mask_zone=drawn,
        zone_correct=said == true,
        near_center_correct=said_near == near,
        answer_agrees_with_mask=said == drawn,
        unclear=False,
        reference_disagrees=False,
    )
    assert found.pair == (true, said)
    # Without a reference that names a place, the mask tells the same.
    without = scores(answer, "Here.", mask(true, near), mask(drawn))
    assert without == replace(found, reference_disagrees=None)


@settings(max_examples=60, deadline=None)
@given(*[st.sampled_from(ZONES)] * 2, st.booleans(), st.booleans())
def test_a_mask_counts_where_its_reference_answer_says_something_else(
    true: str, told: str, near: bool, told_near: bool
) -> None:
    near, told_near = near or true == "center", told_near or told == "center"
    position = Position(true, near)
    reference = describe("tumor", Position(told, told_near))
    found = scores(describe("tumor", position), reference, mask(true, near))
    assert found.true_zones == (true,)
    assert found.zone_correct is found.near_center_correct is True
    assert found.reference_disagrees is ((told, told_near) != (true, near))


def test_findings_of_a_reference_answer_are_those_of_the_mask_or_it_disagrees() -> None:
    truth = mask("top left") | mask("bottom right")
    assert scores(BOTH, BOTH, truth).reference_disagrees is False
    other = "The first is in the top left, the second in the bottom left."
    assert scores(BOTH, other, truth).reference_disagrees is True


@pytest.mark.parametrize(
    "reference",
    [
        "Der Tumor liegt oben links im Bild.",
        "\u80bf\u7624\u4f4d\u4e8e\u5de6\u4e0a\u89d2\u3002",
        "Guz znajduje si\u0119 w lewym g\u00f3rnym rogu obrazu.",
        "\u041e\u043f\u0443\u0445\u043e\u043b\u044c \u0441\u043b\u0435\u0432\u0430.",
    ],
)
def test_data_in_a_language_that_is_not_read_are_neither_right_nor_wrong(reference: str) -> None:
    for question, answer in (("", reference), (reference, "")):
        found = position_scores(reference, answer, mask("top left"), mask("top left"), question)
        assert found.zone_correct is found.near_center_correct is found.unclear is None
        assert found.answer_agrees_with_mask is found.pair is None
        assert found.mask_zone == "top left"


def test_data_in_a_language_whose_words_are_given_are_scored() -> None:
    right = "Der Tumor liegt oben links im Bild."
    found = position_scores(
        right, right, mask("top left"), mask("top left"), "Wo?", position_words("de")
    )
    assert found.zone_correct is found.answer_agrees_with_mask is True
    assert (found.unclear, found.reference_disagrees) == (False, False)


def test_an_answer_in_another_language_than_its_reference_is_unclear() -> None:
    """What a model answers in decides nothing: it would be out of the denominator."""
    found = scores("Der Tumor liegt oben links.", "In the top left.", mask("top left"))
    assert (found.zone_correct, found.unclear) == (False, True)


def test_without_truth_there_is_nothing_to_be_right_about() -> None:
    found = scores("In the top left.", "I do not know.", EMPTY, mask("top left"))
    assert (found.true_zones, found.pair) == ((), None)
    assert found.zone_correct is found.near_center_correct is None
    assert found.answer_agrees_with_mask is True


def test_an_answer_without_a_zone_is_wrong_and_agrees_with_nothing() -> None:
    for answer in ("", "I cannot see it.", "In the top left or in the bottom right."):
        found = scores(answer, "In the top left.", mask("top left"), mask("top left"))
        assert found.zone_correct is False
        assert found.near_center_correct is False
        assert found.answer_agrees_with_mask is None
        assert found.pair == ("top left", None)
        assert found.unclear is True


def test_an_empty_predicted_mask_agrees_with_nothing() -> None:
    found = scores("In the top left.", "In the top left.", mask("top left"), EMPTY)
    assert found.mask_zone is found.answer_agrees_with_mask is None
    assert found.zone_correct is True


def test_agreement_does_not_depend_on_the_truth() -> None:
    found = scores("Bottom right.", "Top left.", mask("top left"), mask("bottom right"))
    assert (found.zone_correct, found.answer_agrees_with_mask) == (False, True)


BOTH = "The first is in the top left, the second in the bottom right."


@pytest.mark.parametrize(
    ("answer", "zones", "correct"),
    [
        ("The first lies top left and the second in the lower right.", 2, True),
        ("In the upper left and in the lower right.", 2, True),
        ("The first is in the bottom right, the second in the top left.", 2, False),
        ("In the top left.", 1, False),
        ("One is top left, another bottom right and the third in the center.", 3, False),
        ("The first is in the top left, the second cannot be seen.", 2, False),
        ("", 0, False),
    ],
)
def test_several_findings_must_be_named_in_order(answer: str, zones: int, correct: bool) -> None:
    truth = mask("top left") | mask("bottom right")
    found = scores(answer, BOTH, truth, mask("top left"))
    assert found.true_zones == ("top left", "bottom right")
    assert len(found.answered_zones) == zones
    assert found.zone_correct is correct
    assert found.near_center_correct is None
    assert found.pair is None


def test_a_confusion_matrix_by_hand() -> None:
    pairs = [
        ("center", "center"),
        ("center", "top left"),
        ("top left", "top left"),
        ("bottom right", None),
        ("bottom right", None),
    ]
    matrix = ConfusionMatrix.of(pairs)
    assert matrix.rows == ZONES
    assert matrix.columns == (*ZONES, UNCLEAR)
    assert matrix.counts.tolist() == [
        [1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 2],
    ]
    assert not ConfusionMatrix.of([]).counts.any()
    with pytest.raises(ValueError, match="middle"):
        ConfusionMatrix.of([("middle", None)])


@given(
    st.lists(st.tuples(st.sampled_from(ZONES), st.sampled_from([*ZONES, None])), max_size=30),
    st.integers(0, 30),
)
def test_matrices_of_parts_add_up(pairs: list[tuple[str, str | None]], cut: int) -> None:
    merged = ConfusionMatrix.of(pairs[cut:]) + ConfusionMatrix.of(pairs[:cut])
    assert (merged.counts == ConfusionMatrix.of(pairs).counts).all()
    assert merged.counts.trace() == sum(true == answered for true, answered in pairs)
    assert merged.counts.sum() == len(pairs)
