"""Unclear answers, other languages and references that contradict their masks, from a row of the
results to the tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prs_med.data.answer_position import ENGLISH
from prs_med.data.position_words import PositionWords, position_words
from prs_med.evaluate.answered import Answered
from prs_med.evaluate.answering import Answer
from prs_med.evaluate.questions import Question
from prs_med.evaluate.scored import Scored, score
from prs_med.evaluate.summary import Totals, summarise
from prs_med.evaluate.table import table
from prs_med.report.answer_sections import position_section
from prs_med.report.content import Listing, Note, Table

TOP_LEFT = "The tumor is located in the top left of the image."
GERMAN = "Der Tumor liegt oben links im Bild."


def scored(
    number: int, reference: str, answer: str, tables: Sequence[PositionWords] = ENGLISH
) -> Scored:
    """A question about a mask in the top left, which the model draws without a fault."""
    truth = np.zeros((40, 40), bool)
    truth[2:9, 2:9] = True
    row = f"a.csv:{number + 2}"
    question = Question(row, f"{number}.png", "Where?", reference, "CT", f"image {number}")
    answered = Answered(
        number, question, None, truth, Answer(answer, truth.astype(np.float32), truth), None, 0.1
    )
    return score(answered, tables)


def metrics_of(found: Sequence[Scored]) -> dict[str, Any]:
    rows = [one.row for one in found]
    metrics = summarise(rows, {"CT": Totals.of(found)})
    assert json.loads(json.dumps(metrics)) == metrics
    return metrics


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    """One right answer, one unclear, one in another language, and one of a false reference."""
    return metrics_of(
        [
            scored(0, TOP_LEFT, TOP_LEFT),
            scored(1, TOP_LEFT, "It is just left of the center."),
            scored(2, GERMAN, GERMAN),
            scored(3, "The tumor is in the bottom right.", TOP_LEFT),
        ]
    )


def test_unclear_answers_are_a_class_of_their_own_and_wrong(metrics: dict[str, Any]) -> None:
    row = scored(1, TOP_LEFT, "It is just left of the center.").row
    assert (row["answered_zone"], row["answer_unclear"], row["zone_correct"]) == (
        "unclear",
        True,
        False,
    )
    position = metrics["all"]["position"]
    assert position["unclear_answers"]["mean"] == pytest.approx(1 / 3)
    assert position["zone_accuracy"]["mean"] == pytest.approx(2 / 3)
    confusion = position["confusion"]
    assert confusion["columns"][-1] == "unclear"
    top_left = confusion["counts"][confusion["rows"].index("top left")]
    assert (top_left[confusion["columns"].index("top left")], top_left[-1]) == (2, 1)


def test_other_languages_are_n_a_with_their_count(metrics: dict[str, Any]) -> None:
    row = scored(2, GERMAN, GERMAN).row
    for column in ("zone_correct", "near_center_correct", "answer_unclear", "answered_zone"):
        assert row[column] is None
    assert metrics["all"]["position"]["other_language"] == 1
    assert metrics["all"]["position"]["zone_accuracy"]["n"] == 3
    assert "1 questions are in another language: n/a" in table(metrics)
    read = scored(2, GERMAN, GERMAN, position_words("de")).row
    assert (read["answered_zone"], read["zone_correct"]) == ("top left", True)


def test_references_that_contradict_their_masks_are_listed(metrics: dict[str, Any]) -> None:
    assert metrics["disagreements"] == [
        {
            "row_id": "a.csv:5",
            "true_zone": "top left",
            "answer": "The tumor is in the bottom right.",
        }
    ]
    assert "1 reference answers say another place than their masks have" in table(metrics)


def test_the_report_says_all_of_it(metrics: dict[str, Any]) -> None:
    blocks = position_section(metrics).blocks
    tables = [block for block in blocks if isinstance(block, Table)]
    assert any("unclear" in column.name for column in tables[1].columns)
    assert any(column.name == "Unclear answers" for column in tables[0].columns)
    notes = " ".join(block.text for block in blocks if isinstance(block, Note))
    assert "Not scored (n/a): 1 question" in notes
    assert "1 reference answer" in notes
    (listing,) = [block for block in blocks if isinstance(block, Listing)]
    assert "a.csv:5" in str(listing)


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    metrics = metrics_of([scored(0, TOP_LEFT, TOP_LEFT)])
    assert "\n\n" not in table(metrics)
    assert "another" not in table(metrics)
    assert not any(isinstance(b, Listing) for b in position_section(metrics).blocks)
