"""The page of a comparison: ``comparison.html``, ``comparison.md`` and ``comparison.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prs_med.report import numbers
from prs_med.report.changed_samples import ChangedSample, changed_section
from prs_med.report.charts.intervals import Interval, interval_chart
from prs_med.report.content import (
    Block,
    Cell,
    Column,
    Figure,
    Figures,
    Note,
    Page,
    Section,
    Table,
    Tone,
)
from prs_med.report.drafted_file import write_whole
from prs_med.report.markdown import markdown_page
from prs_med.report.measures import (
    AGREEMENT,
    DICE,
    HD95,
    IOU,
    NEAR_CENTER,
    ROUGE_L,
    UNCLEAR,
    ZONE,
    Measure,
)
from prs_med.report.measures import interval as interval_text
from prs_med.report.page import html_page

HTML = "comparison.html"
MARKDOWN = "comparison.md"
JSON = "comparison.json"
RESULTS = (HTML, MARKDOWN, JSON)
"""What a comparison writes into its folder."""
_MEASURES = {
    "dice": DICE,
    "iou": IOU,
    "hd95": HD95,
    "zone_correct": ZONE,
    "near_center_correct": NEAR_CENTER,
    "answer_agrees_with_mask": AGREEMENT,
    "answer_unclear": UNCLEAR,
    "rouge_l": ROUGE_L,
}
_IN_FIGURES = ("dice", "zone_correct", "answer_agrees_with_mask")


def write_comparison_report(
    folder: Path, comparison: dict[str, Any], changed: Sequence[ChangedSample]
) -> None:
    """Write ``comparison.html``, ``comparison.md`` and ``comparison.json`` into ``folder``.

    Args:
        folder: made if need be.
        comparison: what :func:`prs_med.report.comparison.compare_runs` returned.
        changed: samples to show as pictures, in this order.

    Raises:
        ValueError: a mask of a case is not bool or has another size than its image.
    """
    page = _page(comparison, changed)
    write_whole(folder / JSON, json.dumps(comparison, indent=2) + "\n")
    write_whole(folder / HTML, html_page(page))
    write_whole(folder / MARKDOWN, markdown_page(page))


def _page(comparison: dict[str, Any], changed: Sequence[ChangedSample]) -> Page:
    baseline, others = comparison["baseline"], comparison["others"]
    return Page(
        kind="Comparison",
        title=f"{', '.join(others)} against {baseline}",
        subtitle=f"{numbers.counted(comparison['shared'], 'question')} that every run has; "
        f"the baseline is {baseline}",
        sections=[
            _overview(comparison),
            *(_section(comparison, other, number) for number, other in enumerate(others, 1)),
            changed_section(changed),
            _settings(comparison),
        ],
    )


def _overview(comparison: dict[str, Any]) -> Section:
    figures = [
        Figure(
            f"{_MEASURES[metric].name}: difference from {comparison['baseline']}",
            interval_chart(
                [
                    Interval(other, comparison["all"][metric][other]["difference"])
                    for other in comparison["others"]
                ],
                _MEASURES[metric].show_difference,
                f"Difference in {_MEASURES[metric].name}",
                mark=_MEASURES[metric].mark,
                zero_line=True,
            ),
            "Right of the dashed line: better than the baseline. An interval that crosses the line "
            "leaves open which is better.",
        )
        for metric in _IN_FIGURES
    ]
    warnings: list[Block] = [Note(text, "warning") for text in comparison["warnings"]]
    return Section(
        "overview",
        "In short",
        "Each run was compared with the baseline question by question, which shows smaller "
        "differences than comparing two means would.",
        [*warnings, *_incomplete(comparison), Figures(figures)],
    )


def _incomplete(comparison: dict[str, Any]) -> list[Block]:
    """A note about samples that not every run has."""
    more = {
        name: count - comparison["shared"]
        for name, count in comparison["samples"].items()
        if count > comparison["shared"]
    }
    if not more:
        return []
    listed = ", ".join(f"{name} {numbers.count(count)}" for name, count in more.items())
    return [Note(f"Left out, because not every run has them: {listed}.", "warning")]


def _section(comparison: dict[str, Any], other: str, number: int) -> Section:
    baseline = comparison["baseline"]
    by_modality = Figures(
        [
            Figure(
                f"{_MEASURES[metric].name} by modality",
                interval_chart(
                    [
                        Interval(name, group[metric][other]["difference"])
                        for name, group in _groups(comparison)
                    ],
                    _MEASURES[metric].show_difference,
                    f"Difference in {_MEASURES[metric].name} by modality",
                    mark=_MEASURES[metric].mark,
                    zero_line=True,
                ),
                f"{other} minus {baseline}, mean over questions.",
            )
            for metric in _IN_FIGURES
        ]
    )
    table = Table(
        f"{other} against {baseline}, on the questions that every run has a score for",
        (
            Column("Modality", kind="name"),
            Column("Score", kind="name"),
            Column("Difference", "mean and 95 % interval"),
            Column("Verdict", kind="name"),
            Column(baseline, "mean"),
            Column(other, "mean"),
            Column("n", f"failed in {baseline} / {other}"),
            Column("Left out", f"no score in some run; failed in {baseline} / {other}"),
        ),
        [
            _row(name, _MEASURES[metric], group[metric][other])
            for name, group in _groups(comparison)
            for metric in _MEASURES
        ],
    )
    return Section(
        f"run-{number}",
        f"{other} against {baseline}",
        "A difference counts as better or worse where its whole 95 % interval lies on one side of "
        "zero; with many rows, some will by chance.",
        [by_modality, table],
    )


def _groups(comparison: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    modalities = list(comparison["modalities"].items())
    return [("All", comparison["all"]), *(modalities if len(modalities) > 1 else [])]


def _row(modality: str, measure: Measure, pair: dict[str, Any]) -> tuple[Cell, ...]:
    difference = pair["difference"]
    verdict, tone = verdict_on(difference, measure)
    return (
        Cell(modality, sort=modality),
        Cell(measure.name, sort=measure.name),
        _difference_cell(difference, measure),
        Cell(verdict, sort=verdict, tone=tone),
        Cell(measure.show(pair["first"]["mean"]), sort=pair["first"]["mean"]),
        Cell(measure.show(pair["second"]["mean"]), sort=pair["second"]["mean"]),
        Cell(numbers.count(difference["n"]), _failed(pair["failures"]), difference["n"]),
        Cell(numbers.count(pair["left_out"]), _failed(pair["failures_left_out"]), pair["left_out"]),
    )


def _failed(of_runs: list[int]) -> tuple[str, ...]:
    """How many questions failed in either run, if any did."""
    first, second = of_runs
    return (f"{numbers.count(first)} / {numbers.count(second)} failed",) if any(of_runs) else ()


def _difference_cell(difference: dict[str, Any], measure: Measure) -> Cell:
    if difference["mean"] is None:
        return Cell(numbers.NOT_AVAILABLE, ("no question has this score in every run",))
    return Cell(
        measure.show_difference(difference["mean"]),
        (interval_text(difference, measure.show_difference),),
        difference["mean"],
    )


def verdict_on(difference: dict[str, Any], measure: Measure) -> tuple[str, Tone]:
    """What the interval of a difference allows to say, and how to stress it."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return numbers.NOT_AVAILABLE, ""
    if low <= 0 <= high:
        return "no clear difference", ""
    return ("better", "good") if (low > 0) == measure.higher_is_better else ("worse", "bad")


def _settings(comparison: dict[str, Any]) -> Section:
    evaluations = comparison["evaluations"]
    keys = dict.fromkeys(key for settings in evaluations.values() for key in settings)
    table = Table(
        "Settings of the evaluations; those that differ are marked",
        (
            Column("Setting", kind="name"),
            *(Column(name, kind="text") for name in evaluations),
            Column("Differs", kind="name"),
        ),
        [_setting_row(key, evaluations) for key in keys],
    )
    return Section(
        "settings", "What was evaluated", "Weights, data and settings of every run.", [table]
    )


def _setting_row(key: str, evaluations: dict[str, dict[str, Any]]) -> tuple[Cell, ...]:
    values = [
        numbers.plain(settings[key]) if key in settings else "not named"
        for settings in evaluations.values()
    ]
    differs = "yes" if len(set(values)) > 1 else "no"
    return (
        Cell(key.replace("_", " "), sort=key),
        *(Cell(value, sort=value) for value in values),
        Cell(differs, sort=differs),
    )
