"""Single samples of an evaluation: those that failed, those to look at, and all in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prs_med.report import numbers
from prs_med.report.cases import Case, case_card
from prs_med.report.content import Block, Cards, Cell, Column, Listing, Note, Section, Table

LIMIT = 2000
"""Most samples that a page lists, so that a browser can still sort them at once."""
_FILE = "per_sample.parquet"


def failures_section(failures: Sequence[Mapping[str, str]]) -> Section:
    """Samples without a result; they count as 0."""
    blocks: list[Block] = [
        Listing([(failure["row_id"], failure["error"]) for failure in failures[:LIMIT]])
    ]
    if not failures:
        blocks = [Note("Every question was answered and scored.")]
    if len(failures) > LIMIT:
        blocks.append(Note(_limit_text(len(failures), "failures")))
    return Section(
        "failures",
        f"Failures ({numbers.count(len(failures))})",
        "Questions without a result. They count as 0 in the means above and below, so leaving out "
        "hard images cannot raise a score.",
        blocks,
    )


def cases_section(cases: Sequence[Case]) -> Section:
    """Pictures of samples with question and answers."""
    return Section(
        "cases",
        "Samples to look at",
        "The image, the true area (green) and the area that the model drew (orange), with the "
        "question and both answers; best, median and worst are by Dice.",
        [Cards([case_card(case) for case in cases])]
        if cases
        else [Note("No pictures were asked for.")],
    )


def samples_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """A sortable table of the samples."""
    table = Table(
        "Samples; click a column's name to sort",
        (
            Column("Row", kind="name"),
            Column("Modality", kind="name"),
            *(Column(name) for name in ("Dice", "IoU", "HD95", "ROUGE-L")),
            Column("True zone", kind="name"),
            Column("Answered", kind="name"),
            Column("Mask", kind="name"),
            Column("Zone right", kind="name"),
            Column("Answer agrees with mask", kind="name"),
            Column("Question", kind="text"),
            Column("Reference answer", kind="text"),
            Column("Model's answer", kind="text"),
            Column("Error", kind="text"),
        ),
        [_sample_row(row) for row in rows[:LIMIT]],
    )
    note = [Note(_limit_text(len(rows), "samples"))] if len(rows) > LIMIT else []
    return Section(
        "samples",
        "All samples" if not note else "Samples",
        f"One row per question; {_FILE} beside this page holds all of them with every score.",
        [*note, table],
    )


def _limit_text(total: int, noun: str) -> str:
    return (
        f"The first {numbers.count(LIMIT)} of {numbers.count(total)} {noun} are shown; all are in "
        f"{_FILE}."
    )


def _sample_row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        _word(row["row_id"]),
        _word(row["modality"]),
        Cell(numbers.score(row["dice"]), sort=row["dice"]),
        Cell(numbers.score(row["iou"]), sort=row["iou"]),
        Cell(numbers.pixels(row["hd95"]), sort=row["hd95"]),
        Cell(numbers.score(row["rouge_l"]), sort=row["rouge_l"]),
        *(_word(row[key]) for key in ("true_zone", "answered_zone", "mask_zone")),
        *(_verdict(row[key]) for key in ("zone_correct", "answer_agrees_with_mask")),
        *(_word(row[key]) for key in ("question", "answer", "predicted_answer")),
        Cell("") if row["error"] is None else Cell(row["error"], sort=row["error"], tone="bad"),
    )


def _word(text: str | None) -> Cell:
    return Cell(numbers.NOT_AVAILABLE) if text is None else Cell(text, sort=text)


def _verdict(right: bool | None) -> Cell:
    if right is None:
        return Cell(numbers.NOT_AVAILABLE)
    return Cell(
        "yes" if right else "no", sort="yes" if right else "no", tone="good" if right else "bad"
    )
