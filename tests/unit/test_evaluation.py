"""Scores of a saved model, and the program that writes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prs_med.config import UsedModelSettings
from prs_med.data.answer_position import parse_position
from prs_med.data.position import position_of
from prs_med.data.records import DataError, Record
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.evaluation import Result, evaluate, summarise, table
from prs_med.evaluate.picture_sheet import MARGIN, TILE, write_picture_sheet
from prs_med.model.prs_med import forward
from tests.unit.assembled import Assembled, assemble

ROOT = Path(__file__).parents[2]
SCORES = ("dice", "iou", "zone_accuracy")


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def checkpoint(model: Assembled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "best"
    model.save(folder)
    return folder


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The program, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "eval.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def evaluated(small, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program writes about the test split."""
    output = tmp_path_factory.mktemp("evaluated")
    done = start(
        *("--checkpoint", checkpoint, "--data_root", small.data, "--output_dir", output),
        *("--max_new_tokens", 8, "--batch_size", 4, "--pictures", 4),
    )
    assert done.returncode == 0, done.stderr
    assert str(output) in done.stdout
    assert re.search(r"^all +6 ", done.stdout, re.MULTILINE)
    return output


def lines(evaluated: Path) -> list[dict]:
    return [json.loads(line) for line in (evaluated / "samples.jsonl").read_text().splitlines()]


def answerer(checkpoint: Path) -> Answerer:
    return Answerer.load(UsedModelSettings(checkpoint=str(checkpoint), max_new_tokens=8))


def overlap(mask: np.ndarray, record: Record) -> tuple[float, float]:
    """Dice and IoU by sets of pixels, from the file as it lies on disk."""
    with Image.open(record.mask_path) as image:
        truth = {tuple(place) for place in np.argwhere(np.asarray(image.convert("L")) > 127)}
    found = {tuple(place) for place in np.argwhere(mask)}
    return (
        2 * len(found & truth) / (len(found) + len(truth)),
        len(found & truth) / len(found | truth),
    )


def test_each_test_row_has_its_line(evaluated: Path, model: Assembled) -> None:
    rows = [record for record in model.records if record.split == "test"]
    found = lines(evaluated)
    assert [line["row_id"] for line in found] == [record.row_id for record in rows]
    for line, record in zip(found, rows, strict=True):
        assert line["question"] == record.question
        assert line["answer"] == record.answer
        assert not Path(line["image"]).is_absolute()
        assert (Path(model.settings.data_root) / line["image"]).samefile(record.image_path)
        assert line["zone"] == parse_position(record.answer).zone
        assert line["predicted_zone"] == parse_position(line["predicted_answer"]).zone


def test_scores_are_those_of_the_masks(evaluated: Path, checkpoint: Path, model) -> None:
    rows = [record for record in model.records if record.split == "test"]
    results = evaluate(answerer(checkpoint), rows, batch_size=4)
    assert any(result.mask.any() for result in results)
    for line, result in zip(lines(evaluated), results, strict=True):
        dice, iou = overlap(result.mask, result.record)
        assert (result.dice, result.iou) == pytest.approx((dice, iou))
        # The program ran in another process, with another number of threads.
        assert (line["dice"], line["iou"]) == pytest.approx((dice, iou), abs=0.01)


def test_a_pixel_is_foreground_where_its_logit_is_positive(checkpoint: Path, model) -> None:
    records = model.records[:4]
    with torch.no_grad():
        logits = forward(model.mllm, model.segmentation, model.batch(records)).mask_logits
    results = evaluate(answerer(checkpoint), records, batch_size=4)
    # These images have the size in which masks are computed.
    masks = np.stack([result.mask for result in results])
    expected = (logits[:, 0] > 0).numpy()
    assert 0 < expected.mean() < 1
    assert (masks != expected).mean() < 0.001


def test_means_are_those_of_the_lines(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    found = lines(evaluated)
    modality = {line["row_id"]: line["row_id"].split(".csv")[0] for line in found}
    assert set(metrics) == {*modality.values(), "all"}
    for name, means in metrics.items():
        group = [line for line in found if name in ("all", modality[line["row_id"]])]
        assert means["samples"] == len(group)
        for score in ("dice", "iou"):
            assert means[score] == pytest.approx(np.mean([line[score] for line in group]))
        zones = [line["zone"] == line["predicted_zone"] for line in group if line["zone"]]
        assert means["zone_accuracy"] == pytest.approx(np.mean(zones))


def test_the_picture_sheet_shows_every_modality(
    evaluated: Path, checkpoint: Path, model: Assembled, tmp_path: Path
) -> None:
    rows = [record for record in model.records if record.split == "test"]
    chosen = [rows[index] for index in (0, 1, 3, 4)]
    assert len({record.modality for record in rows}) == 4
    assert len({record.modality for record in chosen}) > 2
    expected = tmp_path / "expected.png"
    write_picture_sheet(expected, evaluate(answerer(checkpoint), chosen, batch_size=4))
    with Image.open(evaluated / "samples.png") as sheet, Image.open(expected) as reference:
        assert sheet.size == reference.size
        # The column with the images; answers and scores stand further right.
        column = (0, 0, MARGIN + TILE, sheet.height)
        assert sheet.crop(column).tobytes() == reference.crop(column).tobytes()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a mistake leaves."""
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_split_without_rows_is_refused(small, checkpoint: Path, tmp_path: Path) -> None:
    table_of_train = tmp_path / "only_train.csv"
    source = small.data / "annotations" / "phantom_mri.csv"
    rows = source.read_text().splitlines()
    kept = [rows[0], *(row for row in rows[1:] if row.endswith(",train"))]
    table_of_train.write_text("\n".join(kept) + "\n")
    output = tmp_path / "output"
    line = refused(
        start(
            *("--checkpoint", checkpoint, "--data_root", small.data, "--split", "test"),
            *("--ann_paths", table_of_train, "--output_dir", output),
        )
    )
    assert "--split test" in line
    assert not output.exists()


def test_a_folder_that_holds_no_trained_model_is_refused(small, tmp_path: Path) -> None:
    arguments = ("--data_root", small.data, "--output_dir", tmp_path / "output")
    line = refused(start("--checkpoint", small.llava_med, *arguments))
    assert str(small.llava_med / "model.json") in line


def result(
    answer: str, true_zone: str | None, modality: str | None = "ct", dice: float = 0.5
) -> Result:
    record = Record("a.csv:2", Path("i.png"), Path("m.png"), "Where?", "", "", modality, "test")
    mask = np.zeros((4, 4), bool)
    return Result(record, answer, mask, dice, dice / 2, true_zone, parse_position(answer).zone)


def test_zone_accuracy_by_hand() -> None:
    results = [
        result("The tumor is in the top left.", "top left"),
        result("It lies in the lower right of the image.", "bottom right"),
        result("At the centre.", "top left"),
        result("I cannot tell.", "center"),
        result("Top left.", None),
        result("Center.", "center", modality="mri", dice=1.0),
    ]
    correct = [True, True, False, False, None, True]
    assert [r.zone_correct for r in results] == correct
    summary = summarise(results)
    assert list(summary) == ["ct", "mri", "all"]
    assert summary["ct"]["zone_accuracy"] == 0.5
    assert summary["mri"]["zone_accuracy"] == 1
    assert summary["all"]["zone_accuracy"] == pytest.approx(3 / 5)
    assert summary["all"]["samples"] == 6
    assert summary["all"]["dice"] == pytest.approx((5 * 0.5 + 1) / 6)


def test_without_any_zone_the_accuracy_is_not_a_number_but_absent() -> None:
    summary = summarise([result("Top left.", None, modality=None)])
    assert summary["all"]["zone_accuracy"] is None
    assert summary["(not named)"]["samples"] == 1
    assert all(line.endswith("n/a") for line in table(summary).splitlines()[1:])


def drawn(folder: Path, width: int, height: int, answer: str, empty: bool = False) -> Record:
    """An image with a box in its bottom right."""
    mask = np.zeros((height, width), np.uint8)
    if not empty:
        mask[-(height // 4) - 1 :, -(width // 4) - 1 :] = 255
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    name = f"{width}x{height}{'empty' if empty else ''}.png"
    Image.fromarray(image).save(folder / f"image_{name}")
    Image.fromarray(mask).save(folder / f"mask_{name}")
    return Record(
        f"a.csv:{width}", folder / f"image_{name}", folder / f"mask_{name}", "Where is it?",
        answer, "", "ct", "test",
    )  # fmt: skip


SIZES = [(120, 60), (50, 200), (33, 97), (300, 4)]


@pytest.fixture(scope="module")
def oblong(
    checkpoint: Path, model: Assembled, tmp_path_factory: pytest.TempPathFactory
) -> Sequence[Result]:
    folder = tmp_path_factory.mktemp("oblong")
    records = [drawn(folder, *size, "Somewhere.") for size in SIZES]
    records.append(drawn(folder, 40, 40, "Nowhere.", empty=True))
    return evaluate(answerer(checkpoint), records, batch_size=3)


def test_masks_are_scored_in_the_size_of_the_image(oblong: Sequence[Result]) -> None:
    for (width, height), result in zip(SIZES, oblong[:-1], strict=True):
        assert result.mask.shape == (height, width)
        assert (result.dice, result.iou) == pytest.approx(overlap(result.mask, result.record))


def test_an_answer_without_a_zone_is_compared_with_the_zone_of_the_mask(
    oblong: Sequence[Result],
) -> None:
    for result in oblong[:-1]:
        with Image.open(result.record.mask_path) as mask:
            assert result.true_zone == position_of(np.asarray(mask)).zone == "bottom right"
    assert oblong[-1].true_zone is None
    assert oblong[-1].zone_correct is None


def test_the_picture_sheet_takes_any_shape(oblong: Sequence[Result], tmp_path: Path) -> None:
    write_picture_sheet(tmp_path / "sheet.png", oblong)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.std() > 10
    write_picture_sheet(tmp_path / "one.png", oblong[:1])
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.size[0] == pixels.shape[1]
        assert sheet.size[1] < pixels.shape[0]


def test_files_that_cannot_be_used_are_refused_with_their_row(
    checkpoint: Path, model: Assembled, tmp_path: Path
) -> None:
    record = drawn(tmp_path, 64, 64, "There.")
    Image.new("L", (64, 32)).save(record.mask_path)
    with pytest.raises(DataError, match=rf"^{record.row_id}: .*64 x 64 .* 64 x 32"):
        evaluate(answerer(checkpoint), [record], batch_size=1)
    record.image_path.write_bytes(record.image_path.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"^{record.row_id}: .*{record.image_path.name}"):
        evaluate(answerer(checkpoint), [record], batch_size=1)


def test_the_batch_size_changes_no_result(checkpoint: Path, model: Assembled) -> None:
    records = model.records[:5]
    by_size = [evaluate(answerer(checkpoint), records, size) for size in (1, 5)]
    for one, other in zip(*by_size, strict=True):
        assert one.answer == other.answer
        assert (one.mask != other.mask).mean() < 0.001
