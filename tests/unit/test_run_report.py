"""The report of a run that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from prs_med.train.run_report import RunReport
from prs_med.train.status import write_status
from prs_med.train.validation import EXAMPLES, PICTURES


def report_of(folder: Path) -> RunReport:
    return RunReport(folder, folder / "metrics.jsonl", {"batch_size": 8, "seed": 4711})


def log(folder: Path, *rows: dict[str, float | None], tail: str = "") -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + tail)


def test_it_shows_what_the_files_of_the_run_say(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    report.finish()
    assert "4711" in (tmp_path / "report.html").read_text()
    write_status(tmp_path, "running", 0)
    # The last line is being written.
    log(tmp_path, {"step": 10, "loss": 0.625}, {"step": 20, "loss": 0.3125}, tail='{"step": 30, "l')
    report.finish()
    page = (tmp_path / "report.html").read_text()
    assert "0.3125" in page
    assert 'http-equiv="refresh"' in page
    write_status(tmp_path, "complete", 20)
    report.finish()
    page = (tmp_path / "report.html").read_text()
    assert "Complete after step 20" in page
    assert 'http-equiv="refresh"' not in page


def test_it_shows_the_examples_of_the_newest_validation(tmp_path: Path) -> None:
    folder = tmp_path / PICTURES
    folder.mkdir()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(folder / "000.png")
    for kind in ("truth", "predicted"):
        Image.new("L", (8, 6), 255).save(folder / f"000-{kind}.png")
    example = {
        "row_id": "lung_CT.csv:7",
        "modality": "lung_CT",
        "question": "Where is it?",
        "answer": "Top left.",
        "predicted_answer": "In the <center>.",
        "dice": 0.75,
        "zone_correct": False,
        "step": 20,
        "image": "000.png",
        "truth": "000-truth.png",
        "predicted": "000-predicted.png",
    }
    (folder / EXAMPLES).write_text(json.dumps([example]))
    log(tmp_path, {"step": 20, "val_dice": 0.5})
    report = report_of(tmp_path)
    report.finish()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/") == 3
    assert "lung_CT.csv:7" in page
    assert "In the &lt;center&gt;." in page
    # Validation replaces the folder just now.
    (folder / "000.png").unlink()
    report.finish()
    assert "data:image/" not in (tmp_path / "report.html").read_text()


def test_training_neither_waits_nor_ends_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    log(run, {"step": 1, "loss": 1.0})
    report = report_of(run)
    report.update()
    report.finish()
    first = (run / "report.html").read_text()
    log(run, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5})
    # Drawn a moment ago.
    report.update()
    assert (run / "report.html").read_text() == first
    (run / "report.html").unlink()
    shutil.rmtree(run)
    run.write_text("where the folder was is a file")
    report.finish()
    assert "report.html is not written" in caplog.text
