"""Pictures of the newest validation, in the folder of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prs_med.batch import UNKNOWN_MODALITY
from prs_med.data.prompt import EncodedText
from prs_med.data.samples import Sample
from prs_med.train.validation_answers import Answered
from prs_med.train.validation_pictures import write_pictures

SIDE = 8


class Alone:
    """Stands for the agreement of a single process."""

    def gathered(self, value: list) -> list[list]:
        return [value]


def write(folder: Path, shown: list[Answered], step: int) -> None:
    write_pictures(folder, shown, ("ct", "mri"), step, Alone())


def answered(place: int, modality: int = 0) -> Answered:
    truth = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    truth[0, :2, : place + 1] = 1
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:2, :2] = True
    pixels = torch.arange(3 * SIDE * SIDE, dtype=torch.uint8).reshape(3, SIDE, SIDE)
    sample = Sample(
        image_vlm=pixels,
        image_seg=pixels,
        mask=truth,
        text=EncodedText((1, 2, 3), 1),
        question="Where?",
        answer="Top left, é.",
        modality=modality,
        row_id=f"a.csv:{place}",
        weight=1.0,
    )
    return Answered(place, sample, "Top left.", mask, {"val_zone_accuracy": True})


def test_examples_are_written_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "validation"
    shown = [answered(3, UNKNOWN_MODALITY), answered(1)]
    write(folder, shown, step=7)
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    assert rows == [
        {
            "row_id": f"a.csv:{place}",
            "modality": modality,
            "question": "Where?",
            "answer": "Top left, é.",
            "predicted_answer": "Top left.",
            "dice": pytest.approx(dice),
            "zone_correct": True,
            "step": 7,
            "image": f"00{number}.png",
            "truth": f"00{number}-truth.png",
            "predicted": f"00{number}-predicted.png",
        }
        for number, (place, modality, dice) in enumerate([(1, "ct", 1), (3, None, 2 / 3)])
    ]
    with Image.open(folder / "001-truth.png") as truth, Image.open(folder / "000.png") as image:
        assert np.array_equal(np.asarray(truth) // 255, shown[0].sample.mask[0].numpy())
        assert np.array_equal(np.asarray(image), shown[1].sample.image_seg.permute(1, 2, 0).numpy())


def test_the_newest_validation_replaces_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "validation"
    write(folder, [answered(0), answered(1)], step=1)
    write(folder, [answered(0)], step=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "000-predicted.png",
        "000-truth.png",
        "000.png",
        "examples.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["validation"]


def test_training_goes_on_if_pictures_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING, "prs_med"):
        write(tmp_path / "run" / "validation", [answered(0)], step=1)
    assert "the pictures of this validation were not written" in caplog.text
