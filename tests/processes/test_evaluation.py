"""Answers and masks of a saved model, scored by any number of processes."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from prs_med.answering_config import EvaluationSettings
from prs_med.data.answer_position import parse_position
from prs_med.data.order import Rank
from prs_med.data.position import position_of
from prs_med.data.records import DataError, Record
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.evaluation import Evaluation, evaluate
from prs_med.evaluate.judge import PROMPTS
from prs_med.evaluate.open_questions import OpenedQuestions, open_split
from prs_med.evaluate.position_scores import UNCLEAR
from prs_med.evaluate.questions import AnnotatedQuestions
from prs_med.evaluate.results_files import read_results
from prs_med.evaluate.summary import VERSION
from prs_med.model.prs_med import forward
from tests.patience import patience
from tests.programs import LIMIT_S, refused, run, start
from tests.unit.assembled import Assembled, assemble
from tests.unit.chat_models import TEMPLATE, write_random, write_told


@pytest.fixture(scope="module")
def model(small) -> Assembled:
    return assemble(small)


@pytest.fixture(scope="module")
def checkpoint(model: Assembled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "best"
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def settings(small, checkpoint: Path) -> EvaluationSettings:
    return EvaluationSettings(
        checkpoint=str(checkpoint), data_root=str(small.data), max_new_tokens=8, batch_size=2
    )


@pytest.fixture(scope="module")
def answerer(settings: EvaluationSettings) -> Answerer:
    return Answerer.load(settings)


def of_records(
    answerer: Answerer,
    records: Sequence[Record],
    root: Path,
    settings: EvaluationSettings,
    output: Path,
) -> Evaluation:
    questions = AnnotatedQuestions(records, [], root)
    here = replace(settings, output_dir=str(output))
    result = evaluate(answerer, OpenedQuestions(questions, str(root), "x"), here, Rank(0, 1))
    assert result is not None
    return result


def mask_of(output: Path, number: int) -> np.ndarray:
    with Image.open(output / "masks" / f"{number:06d}.png") as image:
        return np.asarray(image) > 0


@pytest.fixture(scope="module")
def evaluated(small, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program writes about the test split."""
    output = tmp_path_factory.mktemp("evaluated")
    done = run(
        *("eval", "--checkpoint", checkpoint, "--data_root", small.data, "--output_dir", output),
        *("--max_new_tokens", 8, "--batch_size", 4, "--pictures", 1),
    )
    assert done.returncode == 0, done.stderr
    assert str(output / "report.html") in done.stdout
    assert re.search(r"^all +6 +0 ", done.stdout, re.MULTILINE)
    return output


def overlap(mask: np.ndarray, record: Record) -> tuple[float, float]:
    """Dice and IoU by sets of pixels, from the file as it lies on disk."""
    with Image.open(record.mask_path) as image:
        truth = {tuple(place) for place in np.argwhere(np.asarray(image.convert("L")) > 127)}
    found = {tuple(place) for place in np.argwhere(mask)}
    return (
        2 * len(found & truth) / (len(found) + len(truth)),
        len(found & truth) / len(found | truth),
    )


def test_each_test_row_is_there(evaluated: Path, model: Assembled) -> None:
    records = [record for record in model.records if record.split == "test"]
    _, rows = read_results(evaluated)
    assert [row["row_id"] for row in rows] == [record.row_id for record in records]
    assert [row["number"] for row in rows] == list(range(6))
    for row, record in zip(rows, records, strict=True):
        assert (row["question"], row["answer"]) == (record.question, record.answer)
        assert (row["modality"], row["error"]) == (record.modality, None)
        for name, path in (("image", record.image_path), ("mask", record.mask_path)):
            assert not Path(row[name]).is_absolute()
            assert (Path(model.settings.data_root) / row[name]).samefile(path)
        assert row["true_zone"] == parse_position(record.answer).zone
        assert row["answered_zone"] == (parse_position(row["predicted_answer"]).zone or UNCLEAR)
        mask = mask_of(evaluated, row["number"])
        assert row["predicted_area"] == mask.sum()
        assert (row["dice"], row["iou"]) == pytest.approx(overlap(mask, record))
        assert row["mask_zone"] == (position_of(mask).zone if mask.any() else None)
    assert not [name for name in os.listdir(evaluated) if name.startswith(".")]
    assert {"report.html", "report.md"} <= {*os.listdir(evaluated)}


def test_means_are_those_of_the_rows(evaluated: Path) -> None:
    metrics, rows = read_results(evaluated)
    assert set(metrics["modalities"]) == {row["modality"] for row in rows}
    for name, group in {**metrics["modalities"], None: metrics["all"]}.items():
        chosen = [row for row in rows if name in (None, row["modality"])]
        assert group["samples"] == len(chosen)
        for score in ("dice", "iou", "precision", "recall"):
            expected = np.mean([row[score] for row in chosen])
            assert group["segmentation"][score]["mean"] == pytest.approx(expected)
        zones = [row["true_zone"] == row["answered_zone"] for row in chosen]
        assert group["position"]["zone_accuracy"]["mean"] == pytest.approx(np.mean(zones))
        counts = np.array(group["position"]["confusion"]["counts"])
        assert counts.sum() == len(chosen)
        assert np.trace(counts) == sum(zones)
        for score in ("meanDic", "wFm", "Sm", "mae"):
            expected = np.mean([row[score] for row in chosen])
            assert group["published_protocol"][score] == pytest.approx(expected)
    assert metrics["failures"] == []
    assert metrics["evaluation"]["post_processing"] == ""


def test_a_pixel_is_foreground_where_its_logit_is_positive(
    answerer: Answerer, model: Assembled, settings: EvaluationSettings, tmp_path: Path
) -> None:
    records = model.records[:4]
    with torch.no_grad():
        logits = forward(model.mllm, model.segmentation, model.batch(records)).mask_logits
    of_records(answerer, records, Path(model.settings.data_root), settings, tmp_path)
    # These images have the size in which masks are computed.
    masks = np.stack([mask_of(tmp_path, number) for number in range(4)])
    expected = (logits[:, 0] > 0).numpy()
    assert 0 < expected.mean() < 1
    assert (masks != expected).mean() < 0.001


def without_times(folder: Path) -> tuple[dict, list[dict]]:
    metrics, rows = read_results(folder)
    del metrics["speed"]
    return metrics, [{**row, "seconds": None} for row in rows]


def test_any_number_of_processes_gives_the_same_results(
    small, checkpoint: Path, tmp_path: Path
) -> None:
    """Also with drawn tokens, and judged."""
    write_told(tmp_path / "told", TEMPLATE)
    write_random(tmp_path / "random", TEMPLATE)
    arguments = (
        *("--judges", f"{tmp_path / 'told'},{tmp_path / 'random'}"),
        *("--checkpoint", checkpoint, "--data_root", small.data, "--split", "train"),
        *("--max_new_tokens", 6, "--batch_size", 1, "--pictures", 0, "--temperature", 0.7),
    )
    for world in (1, 2, 3):
        ranks = [
            start(
                *("eval", *arguments, "--output_dir", tmp_path / str(world)),
                RANK=str(rank),
                WORLD_SIZE=str(world),
            )
            for rank in range(world)
        ]
        for process in ranks:
            output, _ = process.communicate(timeout=patience(LIMIT_S))
            assert process.returncode == 0, output
    one, *others = (without_times(tmp_path / str(world)) for world in (1, 2, 3))
    assert len(one[1]) == 24
    assert len({row["predicted_answer"] for row in one[1]}) > 1
    judged = one[0]["all"]["judges"]
    assert [(Path(j["judge"]).name, j["prompt"]) for j in judged] == [
        (judge, prompt.name) for judge in ("told", "random") for prompt in PROMPTS
    ]
    for number, judgement in enumerate(judged):
        column = f"judge{1 + number // len(PROMPTS)}_{judgement['prompt']}"
        verdicts = [row[column] for row in one[1]]
        found = [judgement[name] for name in ("yes", "no", "unparsed")]
        assert [verdicts.count(verdict) for verdict in (True, False, None)] == found
        assert judgement["accuracy"] == found[0] / 24
        of_modalities = [group["judges"][number]["yes"] for group in one[0]["modalities"].values()]
        assert sum(of_modalities) == found[0]
    for other in others:
        assert other == one
    masks = [
        {file.name: file.read_bytes() for file in (tmp_path / str(world) / "masks").iterdir()}
        for world in (1, 2, 3)
    ]
    assert masks[0] == masks[1] == masks[2]


class InterruptedError_(Exception):
    """Stands for the end of a process."""


def test_an_interrupted_evaluation_goes_on(
    small, answerer: Answerer, settings: EvaluationSettings, tmp_path: Path, monkeypatch
) -> None:
    here = replace(settings, split="train", batch_size=1, output_dir=str(tmp_path / "out"))
    opened = open_split(here, answerer.settings, strict=False)
    answer, calls = answerer.answer, 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 11:
            raise InterruptedError_
        return answer(*arguments)

    monkeypatch.setattr(answerer, "answer", counted)
    with pytest.raises(InterruptedError_):
        evaluate(answerer, opened, here, Rank(0, 1))
    result = evaluate(answerer, opened, here, Rank(0, 1))
    assert result is not None
    # Two whole chunks of four were kept.
    assert calls == 11 + 24 - 8
    monkeypatch.undo()
    whole = replace(here, output_dir=str(tmp_path / "whole"))
    expected = evaluate(answerer, opened, whole, Rank(0, 1))
    assert expected is not None
    for rows in (result.rows, expected.rows):
        for row in rows:
            row["seconds"] = None
    assert result.rows == expected.rows
    assert result.metrics["all"] == expected.metrics["all"]
    for number in range(24):
        assert (mask_of(tmp_path / "out", number) == mask_of(tmp_path / "whole", number)).all()


def test_what_was_done_for_other_settings_is_not_taken(
    answerer: Answerer, settings: EvaluationSettings, tmp_path: Path
) -> None:
    here = replace(settings, output_dir=str(tmp_path))
    opened = open_split(here, answerer.settings, strict=False)
    first = evaluate(answerer, opened, here, Rank(0, 1))
    other = replace(here, minimum_area=10**6)
    again = Answerer.load(other)
    second = evaluate(again, opened, other, Rank(0, 1))
    assert first is not None
    assert second is not None
    assert any(row["predicted_area"] for row in first.rows)
    assert not any(row["predicted_area"] for row in second.rows)
    assert second.metrics["evaluation"]["post_processing"] == (
        "components of 1000000 pixels or more"
    )


def damaged(small, folder: Path) -> Path:
    """A copy of the test data in which three of six questions cannot be answered or scored."""
    root = folder / "data"
    shutil.copytree(small.data, root)
    tables = sorted((root / "annotations").glob("*.csv"))
    rows = [
        (table, line) for table in tables for line in table.read_text().splitlines()[1:]
        if line.endswith(",test")
    ]  # fmt: skip
    masks = [root / line.split(",")[0] for _, line in rows]
    images = [Path(str(mask).replace("_masks", "_images")) for mask in masks]
    images[0].write_bytes(images[0].read_bytes()[:100])
    masks[2].unlink()
    Image.new("L", (32, 64)).save(masks[4])
    return root


def test_failures_stay_in_the_denominator(
    small, answerer: Answerer, settings: EvaluationSettings, tmp_path: Path
) -> None:
    here = replace(
        settings, data_root=str(damaged(small, tmp_path)), output_dir=str(tmp_path / "out")
    )
    opened = open_split(here, answerer.settings, strict=False)
    result = evaluate(answerer, opened, here, Rank(0, 1))
    assert result is not None
    failed = [row for row in result.rows if row["error"]]
    assert len(result.rows) == result.metrics["all"]["samples"] == 6
    assert len(failed) == result.metrics["all"]["failures"] == 3
    errors = sorted(row["error"] for row in failed)
    assert result.metrics["failures"] == [
        {"row_id": row["row_id"], "error": row["error"]} for row in failed
    ]
    assert sum("not a readable image" in error for error in errors) == 1
    assert sum("no mask file" in error for error in errors) == 1
    assert sum("must have the same size" in error for error in errors) == 1
    for row in failed:
        assert (row["dice"], row["iou"], row["meanDic"], row["mae"]) == (0, 0, 0, 1)
        assert (row["zone_correct"], row["hd95"], row["predicted_area"]) == (False, None, None)
    whole = replace(settings, output_dir=str(tmp_path / "whole"))
    expected = evaluate(
        answerer, open_split(whole, answerer.settings, strict=False), whole, Rank(0, 1)
    )
    assert expected is not None
    of_row = {row["row_id"]: row for row in expected.rows}
    good = [row for row in result.rows if not row["error"]]
    assert [row["dice"] for row in good] == [of_row[row["row_id"]]["dice"] for row in good]
    assert result.metrics["all"]["segmentation"]["dice"]["mean"] == pytest.approx(
        sum(row["dice"] for row in good) / 6
    )
    with pytest.raises(DataError, match="no mask file"):
        open_split(here, answerer.settings, strict=True)


def test_strict_stops_at_the_first_failure(small, checkpoint: Path, tmp_path: Path) -> None:
    root = damaged(small, tmp_path)
    for mask in root.rglob("test_masks"):
        # The rows that are found bad before anything is answered.
        shutil.copytree(small.data / mask.relative_to(root), mask, dirs_exist_ok=True)
    line = refused(
        run(
            *("eval", "--checkpoint", checkpoint, "--data_root", root, "--strict"),
            *("--output_dir", tmp_path / "output"),
        )
    )
    assert "not a readable image" in line
    assert re.search(r"\.csv:\d+: ", line)


def test_a_split_without_rows_is_refused(small, checkpoint: Path, tmp_path: Path) -> None:
    table_of_train = tmp_path / "only_train.csv"
    source = small.data / "annotations" / "phantom_mri.csv"
    rows = source.read_text().splitlines()
    kept = [rows[0], *(row for row in rows[1:] if row.endswith(",train"))]
    table_of_train.write_text("\n".join(kept) + "\n")
    output = tmp_path / "output"
    line = refused(
        run(
            *("eval", "--checkpoint", checkpoint, "--data_root", small.data, "--split", "test"),
            *("--ann_paths", table_of_train, "--output_dir", output),
        )
    )
    assert "--split test" in line
    assert not output.exists()


def test_a_folder_that_holds_no_trained_model_is_refused(small, tmp_path: Path) -> None:
    arguments = ("--data_root", small.data, "--output_dir", tmp_path / "output")
    line = refused(run("eval", "--checkpoint", small.llava_med, *arguments))
    assert str(small.llava_med / "model.json") in line


def test_without_reference_answers_texts_are_not_scored(
    small, answerer: Answerer, settings: EvaluationSettings, tmp_path: Path
) -> None:
    """The true zone is then that of the true mask."""
    source = small.data / "annotations" / "phantom_mri.csv"
    header, *lines = source.read_text().splitlines()
    column = header.split(",").index("answer")
    table = tmp_path / "phantom_mri.csv"
    short = [",".join(p for n, p in enumerate(line.split(",")) if n != column) for line in
             (header, *(line for line in lines if '"' not in line))]  # fmt: skip
    table.write_text("\n".join(short) + "\n")
    here = replace(settings, ann_paths=str(table), output_dir=str(tmp_path / "out"))
    opened = open_split(here, answerer.settings, strict=True)
    result = evaluate(answerer, opened, here, Rank(0, 1))
    assert result is not None
    group = result.metrics["all"]
    assert group["samples"] > 0
    assert group["text"]["bleu"] is None
    assert group["text"]["rouge_l"]["mean"] is None
    for row in result.rows:
        assert row["answer"] is None
        mask_path = small.data / row["mask"]
        with Image.open(mask_path) as mask:
            assert row["true_zone"] == position_of(np.asarray(mask)).zone


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


SIZES = [(120, 60), (50, 200), (33, 97), (300, 8)]


def test_masks_are_scored_in_the_size_of_the_image(
    answerer: Answerer, settings: EvaluationSettings, tmp_path: Path
) -> None:
    records = [drawn(tmp_path, *size, "Somewhere.") for size in SIZES]
    records.append(drawn(tmp_path, 40, 40, "Nowhere.", empty=True))
    result = of_records(answerer, records, tmp_path, settings, tmp_path / "out")
    for number, ((width, height), record) in enumerate(zip(SIZES, records, strict=False)):
        mask, row = mask_of(tmp_path / "out", number), result.rows[number]
        assert mask.shape == (height, width)
        assert (row["dice"], row["iou"]) == pytest.approx(overlap(mask, record))
        # The answer names no zone, so that of the mask is the truth.
        assert row["true_zone"] == "bottom right"
    assert result.rows[-1]["true_zone"] is None
    assert result.rows[-1]["zone_correct"] is None


def test_the_batch_size_changes_no_result(
    answerer: Answerer, model: Assembled, settings: EvaluationSettings, tmp_path: Path
) -> None:
    records, root = model.records[:5], Path(model.settings.data_root)
    by_size = [
        of_records(
            answerer, records, root, replace(settings, batch_size=size), tmp_path / str(size)
        )
        for size in (1, 5)
    ]
    for one, other in zip(*(result.rows for result in by_size), strict=True):
        assert one["predicted_answer"] == other["predicted_answer"]
        masks = [mask_of(tmp_path / size, one["number"]) for size in ("1", "5")]
        assert (masks[0] != masks[1]).mean() < 0.001


def drawn_answers(rows: Sequence[dict]) -> dict[str, str]:
    return {row["row_id"]: row["predicted_answer"] for row in rows if row["error"] is None}


def test_drawn_answers_are_those_of_the_question_whatever_is_beside_it(
    model: Assembled, settings: EvaluationSettings, tmp_path: Path
) -> None:
    """In batches of any size, in any order, and beside images that cannot be read."""
    records, root = model.records[:7], Path(model.settings.data_root)
    warm = replace(settings, temperature=1.5, top_p=0.95, seed=5)
    answerer = Answerer.load(warm)

    def answers(of: Sequence[Record], batch_size: int) -> dict[str, str]:
        here = replace(warm, batch_size=batch_size)
        name = f"{batch_size}-{len(list(tmp_path.iterdir()))}"
        return drawn_answers(of_records(answerer, of, root, here, tmp_path / name).rows)

    expected = answers(records, 1)
    assert len(set(expected.values())) == 7
    for batch_size in (2, 3, 7):
        assert answers(records, batch_size) == expected
        assert answers(records[::-1], batch_size) == expected
    broken = replace(records[2], image_path=root / "gone.png")
    del expected[broken.row_id]
    for batch_size in (1, 3, 7):
        assert answers([*records[:2], broken, *records[3:]], batch_size) == expected
    other = Answerer.load(replace(warm, seed=6))
    again = of_records(other, records, root, warm, tmp_path / "other").rows
    assert drawn_answers(again) != answers(records, 1)


def test_files_can_be_read_without_this_package(evaluated: Path) -> None:
    table = pq.read_table(evaluated / "per_sample.parquet")
    assert table.num_rows == 6
    assert not [field.name for field in table.schema if str(field.type) == "null"]
    assert json.loads((evaluated / "metrics.json").read_text())["version"] == VERSION
