"""``launch/infer.py`` as its users meet it."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import prs_med
from prs_med.answering_config import UsedModelSettings
from prs_med.data.answer_position import parse_position
from prs_med.data.images import load_image
from prs_med.data.records import DataError
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.pictures import MARGIN
from prs_med.evaluate.position_scores import UNCLEAR
from tests.patience import patience
from tests.programs import LIMIT_S, run, start, succeed
from tests.unit.assembled import assemble

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
    return run("infer", *arguments)


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
        assert row["zone"] == (parse_position(row["pred_answer"]).zone or UNCLEAR)
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


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images(checkpoint, data, tmp_path: Path) -> None:
    """An image that cannot be read is counted, and the others are answered."""
    folder = tmp_path / "images"
    shutil.copytree(data / "images", folder / "deeper")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("no image")
    done = ask(
        *("--checkpoint", checkpoint, "--images", folder, "--question", "Where is it?"),
        *("--output_dir", tmp_path / "out", "--max_new_tokens", 4, "--probability_maps"),
    )
    assert done.returncode == 0, done.stderr
    assert "4 questions, 1 without an answer" in done.stdout
    broken, *rows = rows_of(tmp_path / "out")
    assert "broken.png: not a readable image" in broken["error"]
    assert broken["pred_mask_path"] == broken["pred_answer"] == broken["seconds"] == ""
    assert [Path(row["image_path"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row, (height, width) in zip(rows, SIZES, strict=True):
        assert (row["error"], row["question"]) == ("", "Where is it?")
        with Image.open(row["pred_mask_path"]) as image:
            mask = np.asarray(image) > 0
        with Image.open(row["probability_path"]) as image:
            probability = np.asarray(image) / 65535
        assert probability.shape == (height, width)
        # Within the rounding to 16 bits.
        assert mask[probability > 0.5 + 1e-4].all()
        assert not mask[probability < 0.5 - 1e-4].any()
        with Image.open(row["overlay_path"]) as drawn, Image.open(row["image_path"]) as image:
            same = (np.asarray(drawn) == np.asarray(image.convert("RGB"))).all(-1)
        assert same[~mask].all()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_csv_file_without_answers_and_masks(checkpoint, data, tmp_path: Path) -> None:
    table = data / "asked.csv"
    table.write_text(
        "Image Path,Question,note\nimages/0.png,Where is it?,a\n"
        'images/1.png,"Is it left, or right?",b\nimages/9.png,Where?,c\n'
    )
    done = ask(
        *("--checkpoint", checkpoint, "--csv", table, "--output_dir", tmp_path / "out"),
        *("--max_new_tokens", 4, "--largest_component", "--fill_holes"),
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["row_id"] for row in rows] == ["asked.csv:2", "asked.csv:3", "asked.csv:4"]
    assert rows[1]["question"] == "Is it left, or right?"
    assert {row["answer"] + row["mask_path"] for row in rows} == {""}
    assert "no image file 'images/9.png'" in rows[2]["error"]
    for row in rows[:2]:
        with Image.open(row["pred_mask_path"]) as image:
            _, parts = ndimage.label(np.asarray(image) > 0, structure=np.ones((3, 3)))
        assert parts <= 1


def test_a_dataset_and_its_csv_files_give_the_same(small, checkpoint, tmp_path: Path) -> None:
    """Whichever the number of processes."""
    succeed("data", "build", "--data_root", small.data, "--output", tmp_path / "dataset")
    arguments = ("--checkpoint", checkpoint, "--max_new_tokens", 4, "--batch_size", 1)
    assert ask(
        *arguments, "--data_root", small.data, "--output_dir", tmp_path / "csv"
    ).returncode == 0  # fmt: skip
    ranks = [
        start(
            *("infer", *arguments, "--data", tmp_path / "dataset"),
            *("--output_dir", tmp_path / "data"),
            RANK=str(rank),
            WORLD_SIZE="2",
        )
        for rank in range(2)
    ]
    for process in ranks:
        output, _ = process.communicate(timeout=patience(LIMIT_S))
        assert process.returncode == 0, output
    one, other = (rows_of(tmp_path / name) for name in ("csv", "data"))
    assert len(one) == len(other) == 6
    by_row = {row["row_id"]: row for row in other}
    for row in one:
        same = by_row[row["row_id"]]
        assert (row["question"], row["answer"]) == (same["question"], same["answer"])
        assert row["pred_answer"] == same["pred_answer"]
        with Image.open(row["pred_mask_path"]) as a, Image.open(same["pred_mask_path"]) as b:
            assert (np.asarray(a) != np.asarray(b)).mean() < 0.001


def test_the_api_of_three_lines(checkpoint, data) -> None:
    image = data / "images" / "1.png"
    model = prs_med.load(str(checkpoint), max_new_tokens=6)
    answer = model.ask(image, "Where is the tumor?")
    assert answer.mask.shape == answer.probability.shape == SIZES[1]
    with Image.open(image) as opened:
        again = model.ask(opened, "Where is the tumor?")
    assert again.text == answer.text
    assert (again.mask == answer.mask).all()
    with pytest.raises(DataError, match="no such file"):
        model.ask("nowhere.png", "Where?")


def test_the_four_bits_of_the_language_model_are_a_choice(checkpoint, data) -> None:
    image = data / "images" / "1.png"
    whole, packed = (
        prs_med.load(str(checkpoint), max_new_tokens=1, load_4bit=bits) for bits in (None, True)
    )
    assert not whole.settings.load_4bit
    assert packed.settings.load_4bit
    one, other = (model.ask(image, "Where?").probability for model in (whole, packed))
    assert 0 < np.abs(one - other).mean() < 0.2
    assert whole.fingerprint() != packed.fingerprint()


def test_mistakes_end_in_one_line(checkpoint, data, tmp_path: Path) -> None:
    table = data / "rows.csv"
    table.write_text(table.read_text() + "images/9.png,,Where?,Top left.,test\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for arguments, part in (
        (("--image", tmp_path / "broken.png", "--question", "?"), "broken.png: not a readable"),
        (("--image", tmp_path / "none.png", "--question", "?"), "none.png: no such file"),
        (("--data_root", data, "--tasks", "liver"), "annotation"),
        (("--images", data / "masks" / "none", "--question", "?"), "none: no image file"),
        (("--csv", data / "rows.csv", "--strict"), "rows.csv:5: no image file 'images/9.png'"),
        (("--csv", tmp_path / "no.csv"), "no.csv"),
        ((), "give one of --image, --images, --csv, --data and --data_root, not none"),
    ):
        done = ask("--checkpoint", checkpoint, *arguments, "--output_dir", tmp_path / "out")
        assert done.returncode == 2
        assert part in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
