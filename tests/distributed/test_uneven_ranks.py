"""Ranks whose batches differ in shape and content still meet in every collective."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import rows
from tests.short_training import short

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def uneven_data(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of very different length; images outside any task folder have no modality."""
    root = tmp_path_factory.mktemp("uneven")
    (root / "annotations").mkdir()
    rows = []
    for path in sorted((small.data / "annotations").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    (root / "masks").mkdir()
    (root / "images").mkdir()
    with (root / "annotations" / "all.csv").open("w", encoding="utf-8", newline="") as file:
        columns = ["image_path", "mask_path", "question", "answer", "split"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for number, row in enumerate(rows):
            mask = small.data / row["image_path"]
            image = Path(str(mask).replace("_masks", "_images"))
            (root / "masks" / f"{number}.png").write_bytes(mask.read_bytes())
            (root / "images" / f"{number}.png").write_bytes(image.read_bytes())
            writer.writerow(
                {
                    "image_path": f"images/{number}.png",
                    "mask_path": f"masks/{number}.png",
                    "question": row["question"] + " Please answer." * (20 * (number % 2)),
                    "answer": row["answer"],
                    "split": row["split"],
                }
            )
    return root


@pytest.mark.parametrize("stage", [2, 3])
def test_no_hang_and_no_modality_loss(small, uneven_data: Path, tmp_path: Path, stage: int) -> None:
    sources = ["--data_root", str(uneven_data), *small.weights()]
    more = ("--batch_size", "1", "--max_steps", "4", "--num_workers", "1")
    arguments = short(sources, *more, config=stage)
    run_jobs([Job(tmp_path / "run", arguments)], 2, tmp_path)
    found = rows(tmp_path / "run", "loss")
    assert len(found) == 4
    assert all(row["loss_cls"] == 0 for row in found)
