"""What an evaluation says about the drawn masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prs_med.report import numbers
from prs_med.report.charts.histogram import histogram, spread_in_words
from prs_med.report.charts.intervals import Interval, interval_chart
from prs_med.report.charts.reliability import reliability_chart
from prs_med.report.content import Cell, Column, Figure, Figures, Note, Section, Table
from prs_med.report.measures import DICE, HD95, IOU, SEGMENTATION, Measure, left_out, of_how_many
from prs_med.report.modality_table import by_modality, summary_table

ALL = "All"
_PROTOCOL = (
    "meanDic", "meanIoU", "maxDic", "maxIoU", "wFm", "Sm", "mae",
    "meanEm", "maxEm", "meanSen", "maxSen", "meanSpe", "maxSpe",
)  # fmt: skip


def masks_section(metrics: dict[str, Any]) -> Section:
    """Dice, IoU and the rest, for each modality."""
    charts = [_interval_figure(metrics, measure) for measure in (DICE, IOU, HD95)]
    table = summary_table(
        metrics, "segmentation", SEGMENTATION, "Masks by modality: mean, 95 % interval, spread"
    )
    return Section(
        "masks",
        "Masks",
        "How well the drawn areas match the true ones; distances are in pixels of the source "
        "image, and an interval says where the mean would lie with other images of the same kind.",
        [Figures(charts), table],
    )


def distribution_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """How Dice is spread, for each modality."""
    by_name: dict[str, list[float]] = {}
    for row in rows:
        by_name.setdefault(row["modality"], []).append(row["dice"])
    groups = sorted(by_name.items())
    if len(groups) > 1:
        groups = [(ALL, [row["dice"] for row in rows]), *groups]
    figures = [
        Figure(name, histogram(values, "Dice"), spread_in_words(values)) for name, values in groups
    ]
    return Section(
        "distribution",
        "Distribution of Dice",
        "A mean can hide that a few masks are far off: each bar counts the questions whose Dice "
        "lies there.",
        [Figures(figures)] if figures else [Note("No questions were evaluated.")],
    )


def protocol_section(metrics: dict[str, Any]) -> Section:
    """The scores of the published protocol, named apart."""
    table = Table(
        "Published protocol by modality",
        (
            Column("Modality", kind="name"),
            Column("n", "questions in every score of the row"),
            *(Column(key) for key in _PROTOCOL),
        ),
        *by_modality(metrics, _protocol_row),
    )
    return Section(
        "protocol",
        "Published protocol",
        "These are not Dice and IoU at 0.5: probability maps are stretched to their own range and "
        "cut at 256 levels, and a score is the mean or the highest over the levels. They compare "
        "with published numbers of the same protocol only.",
        [table],
    )


def calibration_section(metrics: dict[str, Any]) -> Section:
    """Whether probabilities come true."""
    calibration = metrics["all"]["calibration"]
    figures = [
        Figure(
            f"Reliability, {name}",
            reliability_chart(group["calibration"]["curve"], name),
            f"ECE {numbers.score(group['calibration']['ece'])}; "
            "larger points stand for more pixels.",
        )
        for name, group in _groups(metrics)
        if group["calibration"]["curve"]
    ]
    table = Table(
        "Expected calibration error by modality",
        (
            Column("Modality", kind="name"),
            Column("ECE", "0 is perfect; questions that failed have no probabilities"),
            Column("Pixels"),
        ),
        *by_modality(metrics, _calibration_row),
    )
    missing = [] if calibration["curve"] else [Note("n/a: no pixels were scored.")]
    return Section(
        "calibration",
        "Calibration",
        "Whether pixels that are called likely belong to the structure that often. Below the "
        "diagonal the model is too sure of its mask, above it too careful; the expected "
        "calibration error (ECE) is the mean distance over all pixels, most of which are certain "
        "background.",
        [*missing, *([Figures(figures)] if figures else []), table],
    )


def _interval_figure(metrics: dict[str, Any], measure: Measure) -> Figure:
    rows = [Interval(name, group["segmentation"][measure.key]) for name, group in _groups(metrics)]
    title = f"{measure.name} with 95 % interval"
    caption = f"{measure.name}: {measure.explanation}."
    return Figure(title, interval_chart(rows, measure.show, title, mark=measure.mark), caption)


def _groups(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All questions first, then the modalities, if there is more than one."""
    modalities = list(metrics["modalities"].items())
    return [(ALL, metrics["all"]), *(modalities if len(modalities) > 1 else [])]


def _protocol_row(group: dict[str, Any]) -> list[Cell]:
    scores = group["published_protocol"]
    failed = (f"{numbers.count(scores['failures'])} failed",) if scores["failures"] else ()
    n = Cell(numbers.count(scores["n"]), (*failed, *left_out(scores)), scores["n"])
    return [n, *(Cell(numbers.score(scores[key]), sort=scores[key]) for key in _PROTOCOL)]


def _calibration_row(group: dict[str, Any]) -> list[Cell]:
    calibration = group["calibration"]
    ece = calibration["ece"]
    pixels = sum(point["pixels"] for point in calibration["curve"])
    shown = "no pixels" if ece is None else of_how_many(calibration)
    return [
        Cell(numbers.score(ece), (shown, *left_out(calibration)), ece),
        Cell(numbers.count(pixels), sort=pixels),
    ]
