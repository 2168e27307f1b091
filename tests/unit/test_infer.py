"""``launch/infer.py`` as its users meet it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prs_med.config import UsedModelSettings
from prs_med.data.answer_position import parse_position
from prs_med.data.images import load_image
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.picture_sheet import MARGIN
from tests.unit.assembled import assemble

ROOT = Path(__file__).parents[2]
SIZES = [(50, 130), (211, 97), (300, 300)]
"""(H, W) of images; the model computes at 96 x 96."""


@pytest.fixture(scope="module")
def checkpoints(small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that take their images stretched and padded."""
    root = tmp_path_factory.mktemp("trained")
    for fit in ("stretch", "pad"):
        assemble(small, image_fit=fit).save(root / fit)
    return {fit: root / fit for fit in ("stretch", "pad")}


@pytest.fixture(scope="module")
def checkpoint(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["stretch"]


def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "infer.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def data(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and masks of several sizes, none of them the model's."""
    root = tmp_path_factory.mktemp("odd")
    source = next((small.data / "phantom_mri" / "test_images").iterdir())
    rows = []
    for number, (height, width) in enumerate(SIZES):
        for kind in ("images", "masks"):
            (root / kind).mkdir(exist_ok=True)
            file = source.parents[1] / f"test_{kind}" / source.name
            with Image.open(file) as image:
                image.resize((width, height)).save(root / kind / f"{number}.png")
        rows.append(f"images/{number}.png,masks/{number}.png,Where?,Top left.,test")
    header = "image_path,mask_path,question,answer,split"
    (root / "rows.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_have_the_size_and_place_of_their_images(
    checkpoints, data, tmp_path: Path, fit: str
) -> None:
    checkpoint = checkpoints[fit]
    done = ask(
        *("--checkpoint", checkpoint, "--data_root", data, "--ann_paths", data / "rows.csv"),
        *("--output_dir", tmp_path / "out", "--max_new_tokens", 6, "--batch_size", 2),
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    settings = UsedModelSettings(checkpoint=str(checkpoint), max_new_tokens=6)
    images = [load_image(data / "images" / f"{number}.png") for number in range(len(SIZES))]
    expected = Answerer.load(settings).answer(images, ["Where?"] * len(SIZES))
    assert len(rows) == len(SIZES)
    for row, (height, width), answer in zip(rows, SIZES, expected, strict=True):
        with Image.open(row["pred_mask_path"]) as image:
            mask = np.asarray(image)
        assert mask.shape == answer.probability.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 255}
        # Another process with another number of threads: single pixels at the rim may differ.
        assert ((mask > 0) != answer.mask).mean() < 0.01
        with Image.open(row["triplet_path"]) as image:
            assert image.size == (3 * width + 2 * MARGIN, height)
        assert (row["question"], row["answer"]) == ("Where?", "Top left.")
        assert row["zone"] == (parse_position(row["pred_answer"]).zone or "")
        inside = answer.probability[answer.mask]
        if inside.size:
            assert float(row["confidence"]) == pytest.approx(inside.mean(), abs=0.01)
        assert float(row["seconds"]) > 0
    assert any(answer.mask.any() for answer in expected)


def test_one_image(checkpoint, data, tmp_path: Path) -> None:
    arguments = (
        *("--checkpoint", checkpoint, "--image", data / "images" / "1.png"),
        *("--question", "Where is the tumor?", "--output_dir", tmp_path, "--max_new_tokens", 6),
    )
    done = ask(*arguments)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["mask_path"] == row["answer"] == ""
    assert row["pred_answer"] in done.stdout
    again = ask(*arguments)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].endswith("already holds results: give another folder")


def test_a_number_of_drawn_samples(small, checkpoint, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1)):
        done = ask(
            *("--checkpoint", checkpoint, "--data_root", small.data, "--num_samples", 3),
            *("--seed", seed, "--output_dir", tmp_path / folder, "--max_new_tokens", 4),
            *("--temperature", 1.5),
        )
        assert done.returncode == 0, done.stderr
    texts = [(tmp_path / folder / "results.csv").read_text() for folder in ("a", "b")]
    read = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert [len(rows) for rows in read] == [3, 3]
    for one, other in zip(*read, strict=True):
        assert (one["index"], one["pred_answer"]) == (other["index"], other["pred_answer"])


def test_mistakes_end_in_one_line(checkpoint, data, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for arguments, part in (
        (("--image", tmp_path / "broken.png", "--question", "?"), "broken.png: not a readable"),
        (("--image", tmp_path / "none.png", "--question", "?"), "none.png: no such file"),
        (("--data_root", data, "--tasks", "liver"), "annotation"),
        ((), "give either --image with --question, or --data_root"),
    ):
        done = ask("--checkpoint", checkpoint, *arguments, "--output_dir", tmp_path / "out")
        assert done.returncode == 2
        assert part in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
