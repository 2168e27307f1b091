"""The main scores as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("samples", lambda group: str(group["samples"])),
    ("failed", lambda group: str(group["failures"])),
    ("groups", lambda group: str(group["groups"])),
    ("Dice", lambda group: _mean_of(group, group["segmentation"]["dice"], 3)),
    ("IoU", lambda group: _mean_of(group, group["segmentation"]["iou"], 3)),
    ("HD95", lambda group: _mean_of(group, group["segmentation"]["hd95"], 1)),
    ("zone", lambda group: _mean_of(group, group["position"]["zone_accuracy"], 3)),
    ("unclear", lambda group: _mean_of(group, group["position"]["unclear_answers"], 3)),
    (
        "agrees with mask",
        lambda group: _mean_of(group, group["position"]["answer_agrees_with_mask"], 3),
    ),
)


def table(metrics: Mapping[str, Any]) -> str:
    """The content of metrics.json in short, one line per modality. Where a score leaves questions
    out, the number of those in it stands behind."""
    groups = {**metrics["modalities"], "all": metrics["all"]}
    lines = [["modality", *(title for title, _ in _COLUMNS)]]
    lines += [[name, *(cell(group) for _, cell in _COLUMNS)] for name, group in groups.items()]
    return "\n".join([_aligned(lines), *_notes(metrics)])


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    position = metrics["all"]["position"]
    notes = []
    if position["other_language"]:
        notes.append(
            f"{position['other_language']} questions are in another language: n/a where places are "
            "scored (give its words with --position_words)"
        )
    if position["reference_disagrees"]:
        notes.append(
            f"{position['reference_disagrees']} reference answers say another place than their "
            "masks have: the masks count, the rows are listed in the report"
        )
    return notes


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """How the Dice of each run differs from the first run's, one line per modality and run."""
    groups = {**comparison["modalities"], "all": comparison["all"]}
    lines = [["modality", "run", "n", "Dice", f"minus {comparison['baseline']}", "95 % interval"]]
    for name, group in groups.items():
        for run, pair in group["dice"].items():
            difference = pair["difference"]
            interval = f"{_signed(difference['low'])} to {_signed(difference['high'])}"
            lines.append(
                [
                    *(name, run, str(difference["n"]), _mean(pair["second"], 3)),
                    *(_signed(difference["mean"]), interval),
                ]
            )
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if number == 0 else text.rjust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.3f}"


def _mean_of(group: Mapping[str, Any], summary: Mapping[str, Any], digits: int) -> str:
    n = f" (n {summary['n']})" if summary["n"] != group["samples"] else ""
    return f"{_mean(summary, digits)}{n}"


def _mean(summary: Mapping[str, Any], digits: int) -> str:
    mean = summary["mean"]
    return "n/a" if mean is None else f"{mean:.{digits}f}"
