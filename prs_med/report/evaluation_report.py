"""The page of one evaluation: ``report.html`` and ``report.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prs_med.report import numbers
from prs_med.report.answer_sections import judges_section, position_section, text_section
from prs_med.report.cases import Case
from prs_med.report.charts.intervals import interval_strip
from prs_med.report.content import Facts, Note, Page, Section, Tile, Tiles
from prs_med.report.drafted_file import write_whole
from prs_med.report.markdown import markdown_page
from prs_med.report.measures import (
    AGREEMENT,
    DICE,
    IOU,
    ZONE,
    Measure,
    interval,
    left_out,
    of_how_many,
)
from prs_med.report.page import html_page
from prs_med.report.sample_sections import cases_section, failures_section, samples_section
from prs_med.report.segmentation_sections import (
    calibration_section,
    distribution_section,
    masks_section,
    protocol_section,
)

HTML = "report.html"
MARKDOWN = "report.md"
_HEADLINE = (
    ("segmentation", DICE),
    ("segmentation", IOU),
    ("position", ZONE),
    ("position", AGREEMENT),
)


def write_evaluation_report(
    folder: Path,
    metrics: dict[str, Any],
    rows: Sequence[Mapping[str, Any]],
    cases: Sequence[Case],
) -> None:
    """Write ``report.html`` and ``report.md`` into ``folder``, each whole or not at all.

    Args:
        folder: made if need be.
        metrics: the evaluation's ``metrics.json``.
        rows: one per question, as in ``per_sample.parquet``; the page lists the first of them.
        cases: samples to show as pictures, in this order.

    Raises:
        ValueError: a mask of a case is not bool or has another size than its image, or a Dice is
            not from 0 to 1.
        KeyError: the metrics or a row lack something.
    """
    page = evaluation_page(metrics, rows, cases)
    # Pages of Markdown with a line for each of thousands of samples help nobody.
    with_samples = replace(page, sections=[*page.sections, samples_section(rows)])
    write_whole(folder / HTML, html_page(with_samples))
    write_whole(folder / MARKDOWN, markdown_page(page))


def evaluation_page(
    metrics: dict[str, Any], rows: Sequence[Mapping[str, Any]], cases: Sequence[Case]
) -> Page:
    """Everything about an evaluation but the table of its samples."""
    judges = judges_section(metrics)
    everything = metrics["all"]
    evaluation = metrics["evaluation"]
    return Page(
        kind="Evaluation",
        title=f"{Path(str(evaluation['checkpoint'])).name} on {Path(str(evaluation['data'])).name}",
        subtitle=(
            f"{numbers.counted(everything['samples'], 'question')} in "
            f"{numbers.counted(everything['groups'], 'independent group')}, split "
            f"{evaluation['split']}, {numbers.counted(everything['failures'], 'failure')}"
        ),
        sections=[
            _headline(everything),
            _what(metrics),
            failures_section(metrics["failures"]),
            masks_section(metrics),
            distribution_section(rows),
            position_section(metrics),
            text_section(metrics),
            *([judges] if judges else []),
            calibration_section(metrics),
            protocol_section(metrics),
            cases_section(cases),
        ],
    )


def _headline(everything: dict[str, Any]) -> Section:
    return Section(
        "headline",
        "In short",
        "Means over n questions, of which those that failed count as wrong; left out are questions "
        "that cannot have a score. The 95 % interval draws whole groups (all questions about one "
        "image or patient), so it does not count related questions as independent.",
        [Tiles([_tile(everything[part][measure.key], measure) for part, measure in _HEADLINE])],
    )


def _tile(summary: dict[str, Any], measure: Measure) -> Tile:
    name = measure.name
    if summary["mean"] is None:
        missing = (measure.missing, *left_out(summary))
        return Tile(name, numbers.NOT_AVAILABLE, missing, measure.explanation)
    span = interval(summary, measure.show)
    has_interval = summary["low"] is not None
    return Tile(
        name,
        measure.show(summary["mean"]),
        (
            span,
            f"{'95 % interval, ' if has_interval else ''}{of_how_many(summary)} in "
            f"{numbers.counted(summary['groups'], 'group')}",
            *left_out(summary),
        ),
        measure.explanation,
        interval_strip(summary, f"{name} {measure.show(summary['mean'])} between 0 and 1"),
    )


def _what(metrics: dict[str, Any]) -> Section:
    shown = {**metrics["evaluation"], **metrics["speed"]}
    facts = Facts([(key.replace("_", " "), numbers.plain(value)) for key, value in shown.items()])
    steps = metrics["evaluation"]["post_processing"]
    note = (
        f"Masks were changed after the model drew them: {steps}. Scores are those of the changed "
        "masks."
        if steps
        else "Masks are scored as the model drew them, without post-processing."
    )
    return Section(
        "evaluated",
        "What was evaluated",
        "Weights, data and settings behind every number on this page.",
        [facts, Note(note)],
    )
