"""A failure is in every denominator that its question would have been in, and counts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.position import position_of
from prs_med.evaluate.answered import Answered
from prs_med.evaluate.answering import Answer
from prs_med.evaluate.judge import Judgement
from prs_med.evaluate.judged import add_columns, add_judgements, is_judged
from prs_med.evaluate.questions import Question
from prs_med.evaluate.scored import score
from prs_med.evaluate.summary import Totals, summarise
from prs_med.report.evaluation_report import evaluation_page
from prs_med.report.markdown import markdown_page
from tests.unit.report_data import metrics_of

SIDE = 12
PLACES = {
    "top left": (slice(0, 4), slice(0, 4)),
    "bottom right": (slice(8, 12), slice(7, 11)),
    "center": (slice(4, 8), slice(5, 9)),
}
ANSWERS = (None, "It is in the top left.", "It is in the center.", "One at the top left and one at "
           "the bottom right.", "There is nothing.",
           "Der Tumor liegt oben links im Bild.")  # fmt: skip


def mask_at(place: str | None) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    if place:
        mask[PLACES[place]] = True
    return mask


def question(number: int, answer: str | None, modality: str = "ct", group: str = "") -> Question:
    return Question(
        f"a.csv:{number}", f"{number}.png", "Where is it?", answer, modality, group or str(number)
    )


def answered(asked: Question, truth: np.ndarray, said: str, drawn: str | None) -> Answered:
    mask = mask_at(drawn)
    probability = np.where(mask, 0.9, 0.1).astype(np.float32)
    answer = Answer(said, probability, mask)
    return Answered(0, asked, None, truth, answer, None, 0.1)


def failed(asked: Question, truth: np.ndarray | None) -> Answered:
    return Answered(0, asked, None, truth, None, f"{asked.row_id}: broken", None)


outcomes = st.builds(
    lambda answer, modality, group, place, said, drawn, fate: (
        lambda number: _outcome(number, answer, modality, group, place, said, drawn, fate)
    ),
    st.sampled_from(ANSWERS),
    st.sampled_from(["ct", "mri"]),
    st.sampled_from(["p1", "p2", "p3", ""]),
    st.sampled_from([*PLACES, None]),
    st.sampled_from([answer for answer in ANSWERS if answer] + [""]),
    st.sampled_from([*PLACES, None]),
    st.sampled_from(["answered", "answered", "mask known", "nothing known", "answer lost"]),
)


def _outcome(
    number: int,
    answer: str | None,
    modality: str,
    group: str,
    place: str | None,
    said: str,
    drawn: str | None,
    fate: str,
) -> tuple[Answered, Answered]:
    """What became of a question, and what would have, had it not failed."""
    asked = question(number, answer, modality, group)
    whole = answered(asked, mask_at(place), said, drawn)
    if fate == "answer lost":
        asked = replace(asked, answer=None, answer_lost=True)
    became = {
        "answered": whole,
        "mask known": failed(asked, mask_at(place)),
        "nothing known": failed(asked, None),
        "answer lost": failed(asked, None),
    }
    return became[fate], whole


def metrics(results: Sequence[Answered]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an evaluation with one judge writes, and its rows."""
    scored = [score(replace(one, number=number)) for number, one in enumerate(results)]
    rows = [one.row for one in scored]
    modalities = {row["modality"] for row in rows}
    totals = {
        name: Totals.of([one for one in scored if one.row["modality"] == name])
        for name in modalities
    }
    scores = summarise(rows, totals)
    replies = ["Yes" if row["number"] % 2 else "No" for row in rows if is_judged(row)]
    judgements = [Judgement.of("judge", "position", replies)]
    add_columns(1, judgements, rows)
    add_judgements(scores, rows, judgements)
    return scores, rows


def figures(group: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every figure of a group that says of how many questions it is."""
    text = group["text"]
    return {
        **group["segmentation"],
        "published_protocol": group["published_protocol"],
        **{n: figure for n, figure in group["position"].items() if isinstance(figure, Mapping)},
        "bleu": text["bleu_counts"],
        **{name: summary for name, summary in text.items() if not name.startswith("bleu")},
        "calibration": group["calibration"],
        **{f"judge {judge['prompt']}": judge for judge in group["judges"]},
    }


SHARES = {
    "zone_accuracy": "zone_correct",
    "near_center_accuracy": "near_center_correct",
    "answer_agrees_with_mask": "answer_agrees_with_mask",
    "mask_zone_accuracy": "mask_zone_correct",
    **{name: name for name in ("dice", "iou", "precision", "recall")},
    **{name: name for name in ("rouge1", "rouge2", "rouge_l", "meteor_exact_stem")},
}
"""Figures in which a failure counts as 0, to the column of the rows."""
WORST = {**dict.fromkeys(SHARES.values(), 0), "answer_unclear": 1}
"""What a failure counts as, by the column of the rows."""


@settings(max_examples=30, deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=9))
def test_counts_add_up_in_every_table(chosen: list) -> None:
    scores, rows = metrics([make(number)[0] for number, make in enumerate(chosen)])
    groups = {**scores["modalities"], None: scores["all"]}
    for modality, group in groups.items():
        mine = [row for row in rows if modality in (None, row["modality"])]
        failures = sum(row["error"] is not None for row in mine)
        assert (group["samples"], group["failures"]) == (len(mine), failures)
        assert group["groups"] == len({row["group"] for row in mine})
        for name, counts in figures(group).items():
            assert counts["n"] + counts["left_out"] == len(mine), name
            assert counts["failures"] + counts["failures_left_out"] == failures, name
        for name, column in SHARES.items():
            values = [row[column] for row in mine if row[column] is not None]
            found = figures(group)[name]
            assert found["n"] == len(values)
            assert found["mean"] == (pytest.approx(np.mean(values)) if values else None)
            assert found["groups"] == len({r["group"] for r in mine if r[column] is not None})
        assert (
            np.sum(group["position"]["confusion"]["counts"])
            == (group["position"]["confusion"]["n"])
        )
        for judge in group["judges"]:
            parts = (judge["yes"], judge["no"], judge["unparsed"], judge["failures"])
            assert sum(parts) == judge["n"]
            assert judge["accuracy"] == (judge["yes"] / judge["n"] if judge["n"] else None)
    for name in figures(scores["all"]):
        parts = [figures(group)[name] for group in scores["modalities"].values() if
                 name in figures(group)]  # fmt: skip
        for key in ("n", "failures", "left_out", "failures_left_out"):
            assert sum(part[key] for part in parts) == figures(scores["all"])[name][key]


@settings(max_examples=30, deadline=None)
@given(st.lists(outcomes, min_size=1, max_size=9))
def test_a_failure_never_raises_a_score(chosen: list) -> None:
    """It is among the questions of each share that its question would have been among, as the
    worst."""
    pairs = [make(number) for number, make in enumerate(chosen)]
    _, rows = metrics([became for became, _ in pairs])
    _, whole = metrics([answered for _, answered in pairs])
    for row, other in zip(rows, whole, strict=True):
        for column, worst in WORST.items():
            if row["error"] is None:
                assert row[column] == other[column]
            elif other[column] is not None:
                assert row[column] == worst, column


def test_without_a_reference_answer_the_mask_names_the_zone_of_a_failure() -> None:
    """One of four failed: three of four are right, not three of three."""
    truth = mask_at("top left")
    right = [
        answered(question(number, None), truth, "It is in the top left.", "top left")
        for number in range(3)
    ]
    scores, rows = metrics([*right, failed(question(3, None), truth)])
    for name in ("zone_accuracy", "answer_agrees_with_mask", "mask_zone_accuracy"):
        figure = scores["all"]["position"][name]
        assert (figure["mean"], figure["n"], figure["failures"]) == (0.75, 4, 1), name
    assert rows[3]["true_zone"] == position_of(truth).zone
    counts = np.array(scores["all"]["position"]["confusion"]["counts"])
    assert counts.sum() == 4
    assert counts[:, -1].sum() == 1


def test_where_nothing_is_to_be_found_a_failure_has_no_zone() -> None:
    """Its empty mask can be read, so it would have had none when answered, either."""
    scores, _ = metrics([failed(question(0, None), mask_at(None))])
    assert scores["all"]["position"]["zone_accuracy"]["n"] == 0
    assert scores["all"]["segmentation"]["dice"]["mean"] == 0


@pytest.mark.parametrize("truth", [None, mask_at("top left")])
def test_in_a_language_that_is_not_read_a_failure_is_as_little_scored_as_an_answer(
    truth: np.ndarray | None,
) -> None:
    german = question(0, ANSWERS[-1])
    known = mask_at("top left")
    answer = answered(replace(german, row_id="a.csv:1"), known, ANSWERS[-1], "top left")
    scores, rows = metrics([failed(german, truth), answer])
    position = scores["all"]["position"]
    for name in ("zone_accuracy", "near_center_accuracy", "answer_agrees_with_mask",
                 "mask_zone_accuracy", "unclear_answers", "confusion"):  # fmt: skip
        assert (position[name]["n"], position[name]["failures_left_out"]) == (0, 1), name
    assert position["other_language"] == 2
    assert (rows[0]["true_zone"], rows[0]["answered_zone"]) == (None, None)


def test_a_mask_that_cannot_be_read_leaves_its_failure_in_the_denominators() -> None:
    scores, _ = metrics([failed(question(0, None), None)])
    for name in ("zone_accuracy", "near_center_accuracy", "answer_agrees_with_mask"):
        assert scores["all"]["position"][name]["mean"] == 0
    # But not in a table of true zones, which says so.
    confusion = scores["all"]["position"]["confusion"]
    assert (confusion["n"], confusion["failures_left_out"]) == (0, 1)


def test_a_reference_that_cannot_be_read_still_counts() -> None:
    lost = replace(question(0, None), answer_lost=True)
    scores, rows = metrics([failed(lost, None), failed(question(1, None), mask_at("center"))])
    assert scores["all"]["text"]["rouge_l"]["mean"] == 0
    assert scores["all"]["text"]["rouge_l"]["n"] == 1
    assert [row["judge1_position"] for row in rows] == [False, None]


def test_the_page_shows_how_many_and_how_many_failed() -> None:
    truth = mask_at("top left")
    results = [
        answered(question(0, ANSWERS[1]), truth, "In the top left.", "top left"),
        failed(question(1, ANSWERS[1]), truth),
        failed(question(2, None), truth),
    ]
    scores, rows = metrics(results)
    page = markdown_page(evaluation_page({**metrics_of(rows), **scores}, rows, []))
    assert "n 3, 2 failed" in page
    # Of texts, distances and calibration.
    assert "n 2, 1 failed" in page
    assert "left out 1, 1 failed" in page
    assert "left out 2, 2 failed" in page
