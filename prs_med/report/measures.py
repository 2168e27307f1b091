"""The scores that reports show: their names, units and meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prs_med.report import numbers
from prs_med.report.content import Cell


@dataclass(frozen=True)
class Measure:
    """One score, as the summaries and the rows of an evaluation name it."""

    key: str
    name: str
    explanation: str
    missing: str
    """Why a score may have no value."""
    show: Callable[[float | None], str] = numbers.score
    show_difference: Callable[[float | None], str] = numbers.signed_score
    mark: Callable[[float], str] = numbers.short
    """How an axis of values or differences is marked."""
    higher_is_better: bool = True


_SHARE: dict[str, Any] = {
    "show": numbers.percent,
    "show_difference": numbers.signed_points,
    "mark": numbers.percent_mark,
}
_DISTANCE: dict[str, Any] = {
    "show": numbers.pixels,
    "show_difference": numbers.signed_pixels,
    "higher_is_better": False,
}
_NO_QUESTIONS = "no questions"
_NO_TRUE_PLACE = "no reference answer or true mask names one place"
_NO_REFERENCE = "no reference answers to compare with"

DICE = Measure("dice", "Dice", "overlap of drawn and true area, 1 is perfect", _NO_QUESTIONS)
IOU = Measure("iou", "IoU", "shared area over joint area, 1 is perfect", _NO_QUESTIONS)
PRECISION = Measure("precision", "Precision", "share of the drawn area that is true", _NO_QUESTIONS)
RECALL = Measure("recall", "Recall", "share of the true area that is drawn", _NO_QUESTIONS)
HD95 = Measure(
    "hd95",
    "HD95",
    "how far outlines are apart, all but the worst 5 %; 0 is perfect",
    "needs an area in both masks",
    **_DISTANCE,
)
SURFACE_DISTANCE = Measure(
    "surface_distance",
    "Surface distance",
    "how far outlines are apart on average; 0 is perfect",
    "needs an area in both masks",
    **_DISTANCE,
)
SEGMENTATION = (DICE, IOU, PRECISION, RECALL, HD95, SURFACE_DISTANCE)

ZONE = Measure(
    "zone_accuracy", "Zone accuracy", "answers with the right zone", _NO_TRUE_PLACE, **_SHARE
)
NEAR_CENTER = Measure(
    "near_center_accuracy",
    "Near-centre accuracy",
    "answers right about nearness to the centre",
    _NO_TRUE_PLACE,
    **_SHARE,
)
AGREEMENT = Measure(
    "answer_agrees_with_mask",
    "Answer agrees with mask",
    "answers that name the zone of the drawn mask",
    "no answer names one zone beside a mask that is not empty",
    **_SHARE,
)
MASK_ZONE = Measure(
    "mask_zone_accuracy",
    "Mask zone accuracy",
    "drawn masks that lie in the true zone",
    _NO_TRUE_PLACE,
    **_SHARE,
)
UNCLEAR = Measure(
    "unclear_answers",
    "Unclear answers",
    "answers that name no zone, or not one in words that are understood; they are wrong, too",
    "no answer is in a language that is read",
    **_SHARE,
    higher_is_better=False,
)
POSITION = (ZONE, NEAR_CENTER, AGREEMENT, MASK_ZONE, UNCLEAR)

ROUGE_L = Measure("rouge_l", "ROUGE-L", "longest common run of words", _NO_REFERENCE)
TEXT = (
    Measure("rouge1", "ROUGE-1", "shared words", _NO_REFERENCE),
    Measure("rouge2", "ROUGE-2", "shared pairs of words", _NO_REFERENCE),
    ROUGE_L,
    Measure("meteor_exact_stem", "METEOR", "same words and stems, no synonyms", _NO_REFERENCE),
)

MEASURES = {measure.key: measure for measure in (*SEGMENTATION, *POSITION, *TEXT)}
"""All by their keys."""


def summary_cell(summary: dict[str, Any], measure: Measure) -> Cell:
    """Mean of a summary with its interval and spread, of how many values, and how many failed."""
    if summary["mean"] is None:
        return Cell(numbers.NOT_AVAILABLE, (measure.missing, *left_out(summary)))
    spread = "" if summary["sd"] is None else f"sd {measure.show(summary['sd'])}, "
    detail = (interval(summary, measure.show), f"{spread}{of_how_many(summary)}")
    return Cell(measure.show(summary["mean"]), (*detail, *left_out(summary)), summary["mean"])


def of_how_many(counts: dict[str, Any]) -> str:
    """How many questions a figure is the mean of, and how many of them failed."""
    failed = f", {numbers.count(counts['failures'])} failed" if counts["failures"] else ""
    return f"n {numbers.count(counts['n'])}{failed}"


def left_out(counts: dict[str, Any]) -> tuple[str, ...]:
    """How many questions have no value for a figure, and how many of them failed; nothing where all
    have one."""
    if not counts["left_out"]:
        return ()
    failed = counts["failures_left_out"]
    of_them = f", {numbers.count(failed)} failed" if failed else ""
    return (f"left out {numbers.count(counts['left_out'])}{of_them}",)


def interval(summary: dict[str, Any], show: Callable[[float | None], str]) -> str:
    """The 95 % interval of a summary, or why it has none."""
    if summary["low"] is None or summary["high"] is None:
        return "no interval: fewer than two groups"
    return f"{show(summary['low'])} to {show(summary['high'])}"
