"""The page of a training run, rewritten while it trains: ``report.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prs_med.report import numbers
from prs_med.report.cases import Case, case_card
from prs_med.report.charts.lines import Series, ends_in_words, line_chart
from prs_med.report.content import (
    Block,
    Cards,
    Facts,
    Figure,
    Figures,
    Note,
    Page,
    Section,
    Tile,
    Tiles,
)
from prs_med.report.curves import curve, curve_names, gaps, highest, last_value, present
from prs_med.report.drafted_file import write_whole
from prs_med.report.page import html_page

HTML = "report.html"
REFRESH_SECONDS = 30
_GAPS_NAMED = 10

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Panel:
    """Numbers that belong on one chart."""

    title: str
    unit: str
    names: tuple[str, ...]
    spans_powers: bool = False
    """A logarithmic axis is wanted where the values range widely."""


_TRAINING = (
    _Panel("Training loss", "loss", ("loss", "loss_seg", "loss_txt", "loss_cls"), True),
    _Panel("Gradient norm", "norm", ("grad_norm", "grad_norm_mllm", "grad_norm_seg"), True),
    _Panel("Learning rate", "rate", ("learning_rate",)),
)
_VALIDATION = (
    _Panel("Validation loss", "loss", ("val_loss_seg", "val_loss_txt", "val_loss_cls"), True),
    _Panel("Validation Dice and IoU", "score", ("val_dice", "val_iou")),
)
_SPEED = (
    _Panel("Speed", "samples per second", ("samples_per_s",)),
    _Panel("Waiting", "seconds", ("data_wait_s", "checkpoint_stall_s")),
)
_NAMED = {name for panel in (*_TRAINING, *_VALIDATION, *_SPEED) for name in panel.names}


def write_training_report(
    folder: Path,
    metric_rows: Rows,
    settings: dict[str, Any],
    status: dict[str, Any] | None,
    cases: Sequence[Case],
) -> None:
    """Write ``report.html`` into a run's folder, whole or not at all.

    Browsers read the page again every `REFRESH_SECONDS` while the status says that the run goes on.

    Args:
        folder: made if need be.
        metric_rows: the lines of ``metrics.jsonl`` in their order; None stands for a number that
            was not finite.
        settings: the run's settings by name.
        status: ``state``, ``step`` and ``reason`` as in ``status.json``; None if there is none yet.
        cases: samples to show as pictures, in this order.

    Raises:
        ValueError: a mask of a case is not bool or has another size than its image.
    """
    write_whole(folder / HTML, html_page(_page(folder, metric_rows, settings, status, cases)))


def _page(
    folder: Path,
    rows: Rows,
    settings: dict[str, Any],
    status: dict[str, Any] | None,
    cases: Sequence[Case],
) -> Page:
    running = status is not None and status["state"] == "running"
    others = [_Panel(name, name, (name,)) for name in curve_names(rows) if name not in _NAMED]
    return Page(
        kind="Training run",
        title=folder.resolve().name,
        subtitle=_status_in_words(status),
        sections=[
            _overview(rows, status),
            _section(
                "training",
                "Training",
                "The loss should fall and then flatten; a gradient norm that grows and grows is a "
                "sign of trouble.",
                _TRAINING,
                rows,
            ),
            _section(
                "validation",
                "Validation",
                "Scores on questions that are not trained on; a validation loss that rises while "
                "the training loss falls means learning by heart.",
                _VALIDATION,
                rows,
            ),
            _section(
                "speed",
                "Speed and the rest",
                "How fast samples are trained on, how long training waited meanwhile, and every "
                "other number that was logged.",
                (*_SPEED, *others),
                rows,
            ),
            *([_pictures(cases)] if cases else []),
            _settings(settings),
        ],
        refresh_seconds=REFRESH_SECONDS if running else None,
    )


def _status_in_words(status: dict[str, Any] | None) -> str:
    if status is None:
        return "No status yet"
    step = f"step {numbers.count(status['step'])}"
    words = {
        "running": f"Running, started after {step} (this also stands here after a crash). The page "
        f"reads itself anew every {REFRESH_SECONDS} seconds.",
        "stopped": f"Stopped after {step}",
        "complete": f"Complete after {step}",
    }
    reason = f": {status['reason']}" if status["reason"] else ""
    return words.get(status["state"], f"{status['state']} at {step}") + reason


def _overview(rows: Rows, status: dict[str, Any] | None) -> Section:
    return Section(
        "overview",
        "In short",
        "The newest numbers, and the best validation so far.",
        [Tiles([_progress(rows, status), _loss(rows), _best(rows), _speed(rows), _skipped(rows)])],
    )


def _progress(rows: Rows, status: dict[str, Any] | None) -> Tile:
    step = max((row["step"] for row in rows[-1:]), default=status["step"] if status else 0)
    epoch = last_value(curve(rows, "epoch"))
    details = () if epoch is None else (f"epoch {epoch:.2f}",)
    return Tile("Step", numbers.count(step), details, "newest line of metrics.jsonl")


def _loss(rows: Rows) -> Tile:
    loss = curve(rows, "loss")
    last = last_value(loss)
    missing = len(gaps(loss))
    detail = (f"not finite at {numbers.counted(missing, 'step')}",) if missing else ()
    if last is None:
        return Tile("Loss", numbers.NOT_AVAILABLE, detail or ("nothing logged yet",))
    return Tile("Loss", numbers.short(last), detail, "mean since the line before")


def _best(rows: Rows) -> Tile:
    best = highest(curve(rows, "val_dice"))
    if best is None:
        return Tile("Best validation Dice", numbers.NOT_AVAILABLE, ("no validation yet",))
    step, dice = best
    return Tile("Best validation Dice", numbers.score(dice), (f"at step {numbers.count(step)}",))


def _speed(rows: Rows) -> Tile:
    speed = last_value(curve(rows, "samples_per_s"))
    if speed is None:
        return Tile("Samples per second", numbers.NOT_AVAILABLE, ("nothing logged yet",))
    return Tile("Samples per second", numbers.short(speed), (), "over all processes")


def _skipped(rows: Rows) -> Tile:
    skipped = last_value(curve(rows, "skipped_steps"))
    if skipped is None:
        return Tile("Skipped steps", numbers.NOT_AVAILABLE, ("nothing logged yet",))
    return Tile(
        "Skipped steps", numbers.count(round(skipped)), (), "a loss or gradient was not finite"
    )


def _section(
    anchor: str, title: str, explanation: str, panels: Sequence[_Panel], rows: Rows
) -> Section:
    figures, notes = [], []
    for panel in panels:
        series = present([curve(rows, name) for name in panel.names])
        if series:
            figures.append(_figure(panel, series))
            notes += [note for one in series if (note := _gap_note(one))]
    nothing: list[Block] = [Note("n/a: nothing logged yet.")]
    return Section(anchor, title, explanation, [*notes, Figures(figures)] if figures else nothing)


def _figure(panel: _Panel, series: Sequence[Series]) -> Figure:
    chart = line_chart(series, "step", panel.unit, panel.title, may_be_log=panel.spans_powers)
    return Figure(panel.title, chart, f"From first to last: {ends_in_words(series)}")


def _gap_note(one: Series) -> Note | None:
    """Where a number was not finite, in words; None if it always was."""
    steps = gaps(one)
    if not steps:
        return None
    named = ", ".join(map(numbers.count, steps[:_GAPS_NAMED]))
    more = len(steps) - _GAPS_NAMED
    rest = f" and {numbers.count(more)} more" if more > 0 else ""
    return Note(
        f"{one.name} was not finite at {'step' if len(steps) == 1 else 'steps'} {named}{rest}: a "
        "gap in the curve and a cross at its foot.",
        "warning",
    )


def _pictures(cases: Sequence[Case]) -> Section:
    return Section(
        "pictures",
        "Samples",
        "What the model draws and answers now: the true area in green, its own in orange.",
        [Cards([case_card(case) for case in cases])],
    )


def _settings(settings: dict[str, Any]) -> Section:
    facts = Facts([(name, numbers.plain(value)) for name, value in settings.items()])
    return Section("settings", "Settings", "All settings of the run, defaults included.", [facts])
