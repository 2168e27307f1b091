"""One bad image among many is one failed row, whatever is wrong with it or with its name."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from tests import hostile
from tests.programs import run
from tests.unit.assembled import assemble


@pytest.fixture(scope="module")
def checkpoint(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "weights"
    assemble(small).save(folder)
    return folder


def bad_files() -> dict[str, bytes]:
    """By name; every second one has a name that few would give."""
    odd = [
        "\udcff",
        "new\nline",
        "=1+1",
        "x" * 240,
        "é",
        "e\u0301",
        "%s",
        '"q"',
        "-x",
        "{0}",
        "a,b",
    ]
    kinds = [kind for kind in sorted(hostile.PLAIN) if kind not in hostile.USABLE]
    return {
        f"{odd[n // 2 % len(odd)]}{n}.png" if n % 2 else f"{n:03d}.png": hostile.PLAIN[kind]
        for n, kind in enumerate(kinds)
    }


def test_inference_goes_on_behind_every_bad_image(checkpoint: Path, tmp_path: Path) -> None:
    bad = bad_files()
    for name, content in bad.items():
        hostile.put(tmp_path / "images" / name, content)
    good = {"good.png": hostile.GOOD, "\udcfe good.png": hostile.GOOD}
    for name, content in good.items():
        hostile.put(tmp_path / "images" / name, content)
    (tmp_path / "images" / "folder.png").mkdir()
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    done = run(
        "infer",
        *("--checkpoint", checkpoint, "--images", tmp_path / "images", "--question", "Where?"),
        *("--output_dir", tmp_path / "images" / "out", "--max_new_tokens", 2, "--batch_size", 4),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    with (tmp_path / "images" / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(bad) + len(good) + 1
    assert sum(not row["error"] for row in rows) == len(good)
    assert all(row["pred_mask_path"] for row in rows if not row["error"])


def test_an_evaluation_goes_on_behind_every_bad_row(checkpoint: Path, tmp_path: Path) -> None:
    rows = []
    for name, content in {**bad_files(), "good.png": hostile.GOOD}.items():
        hostile.put(tmp_path / "data" / "images" / name, content)
        hostile.put(tmp_path / "data" / "masks" / name, hostile.GOOD)
        rows.append([f"images/{name}", f"masks/{name}", "Where is it?", "Top left.", "test"])
    rows.append(["images/good.png", "masks/none.png", "Where is it?", "Top left.", "test"])
    (tmp_path / "data" / "annotations").mkdir()
    with (tmp_path / "data" / "annotations" / "a.csv").open(
        "w", newline="", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "mask_path", "question", "answer", "split"])
        writer.writerows([[os.fsencode(c).decode("utf-8", "replace") for c in row] for row in rows])
    done = run(
        "eval",
        *("--checkpoint", checkpoint, "--data_root", tmp_path / "data", "--split", "test"),
        *("--output_dir", tmp_path / "out", "--max_new_tokens", 2, "--pictures", 1),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["all"]["samples"], metrics["all"]["failures"]) == (len(rows), len(rows) - 1)
