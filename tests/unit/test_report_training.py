"""The page of a training run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from prs_med.report.curves import curve, curve_names, gaps, highest
from prs_med.report.training_report import write_training_report
from tests.unit.html_reading import Element, check_self_contained
from tests.unit.report_data import Pictures, evaluation_row

RUNNING = {"state": "running", "step": 0, "reason": ""}


def line(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 100,
        "loss": 3 / step,
        "loss_seg": 2 / step,
        "loss_txt": 1 / step,
        "grad_norm": 1.5,
        "learning_rate": 1e-4,
        "skipped_steps": 0,
        "samples_per_s": 20.0,
        "memory_gb": 1.25,
        **changes,
    }


def page_of(
    folder: Path, rows: list, status: dict[str, Any] | None = RUNNING, **settings: Any
) -> Element:
    write_training_report(folder, rows, settings, status, [])
    return check_self_contained((folder / "report.html").read_text(encoding="utf-8"))


def tiles(page: Element) -> dict[str, tuple[str, list[str]]]:
    return {
        tile.all("h3")[0].text: (
            tile.with_class("value")[0].text,
            [detail.text for detail in tile.with_class("detail")],
        )
        for tile in page.with_class("tile")
    }


def figures(page: Element) -> dict[str, Element]:
    return {one.all("h3")[0].text: one for one in page.with_class("figure")}


def test_what_a_killed_run_wrote_twice_counts_once() -> None:
    rows = [{"step": step, "loss": 1.0} for step in (10, 20, 30, 40)]
    rows += [{"step": step, "loss": 2.0} for step in (30, 40, 50)]
    rows.insert(2, {"step": 20, "val_dice": 0.5})
    assert curve(rows, "loss").points == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]
    assert curve(rows, "val_dice").points == [(20, 0.5)]
    assert curve(rows, "val_iou").points == []


def test_numbers_gaps_and_best() -> None:
    rows = [
        {"step": 1, "epoch": 0.1, "loss": None, "val_samples": 4, "note": "x"},
        {"step": 2, "loss": 3.0, "mfu": 1, "flag": True},
        {"step": 3, "loss": 3.0},
    ]
    assert curve_names(rows) == ["loss", "mfu"]
    assert gaps(curve(rows, "loss")) == [1]
    assert highest(curve(rows, "loss")) == (2, 3.0)
    assert highest(curve(rows, "mfu_")) is None


def test_newest_and_best_numbers_come_first(tmp_path: Path) -> None:
    rows = [line(step) for step in (10, 20, 30)]
    rows.insert(1, {"step": 10, "val_dice": 0.9, "val_iou": 0.8, "val_loss_seg": 0.3})
    rows.append({"step": 30, "val_dice": 0.7, "val_iou": 0.6, "val_loss_seg": 0.4})
    page = page_of(tmp_path / "run", rows, lora_rank=16, cache_dir=None)
    assert tiles(page) == {
        "Step": ("30", ["epoch 0.30"]),
        "Loss": ("0.1", []),
        "Best validation Dice": ("0.900", ["at step 10"]),
        "Samples per second": ("20", []),
        "Skipped steps": ("0", []),
    }
    charts = figures(page)
    assert list(charts) == [
        *("Training loss", "Gradient norm", "Learning rate"),
        *("Validation loss", "Validation Dice and IoU"),
        *("Speed", "skipped_steps", "memory_gb"),
    ]
    legend = [item.text for item in charts["Training loss"].all("li")]
    assert legend == ["loss", "loss_seg", "loss_txt"]
    words = charts["Validation Dice and IoU"].all("figcaption")[0].text
    assert words == "From first to last: val_dice 0.9 to 0.7; val_iou 0.8 to 0.6"
    assert "lora_rank" in page.all("section", id="settings")[0].whole_text
    assert page.all("h1")[0].text == "run"


@pytest.mark.parametrize(
    ("status", "words", "refreshes"),
    [
        (RUNNING, "Running, started after step 0", True),
        (
            {"state": "stopped", "step": 70, "reason": "SIGTERM"},
            "Stopped after step 70: SIG",
            False,
        ),
        ({"state": "complete", "step": 1200, "reason": ""}, "Complete after step 1,200", False),
        (None, "No status yet", False),
    ],
)
def test_only_a_running_run_is_read_again(
    tmp_path: Path, status: dict | None, words: str, refreshes: bool
) -> None:
    page = page_of(tmp_path, [line(10)], status)
    assert page.with_class("subtitle")[0].text.startswith(words)
    assert bool(page.all("meta", **{"http-equiv": "refresh"})) == refreshes


def test_numbers_that_were_not_finite_are_named(tmp_path: Path) -> None:
    rows = [line(step, loss=None if 20 <= step <= 150 else 1.0) for step in range(10, 200, 10)]
    page = page_of(tmp_path, rows)
    (warning,) = page.with_class("warning")
    assert warning.text.startswith(
        "loss was not finite at steps 20, 30, 40, 50, 60, 70, 80, 90, 100, 110 and 4 more:"
    )
    assert len(figures(page)["Training loss"].with_class("cross")) == 14
    assert tiles(page)["Loss"] == ("1", ["not finite at 14 steps"])


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, [])
    assert tiles(page)["Loss"] == ("n/a", ["nothing logged yet"])
    assert page.all("figure") == []
    assert "nothing logged yet" in page.all("section", id="training")[0].whole_text


def test_pages_of_long_runs_stay_small(tmp_path: Path) -> None:
    rows = [line(step, loss=math.sin(step) + 2) for step in range(1, 100_001)]
    page_of(tmp_path, rows)
    assert (tmp_path / "report.html").stat().st_size < 300_000


def test_pictures_are_shown(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "phantoms", count=4, size=48)
    case = pictures.case(evaluation_row(0), "example")
    write_training_report(tmp_path, [line(1)], {"<b>": "</style>"}, None, [case])
    page = check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 3
    assert page.with_class("badge")[0].text == "Example"
