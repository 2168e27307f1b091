"""What training measures at a validation, on its own engines."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from prs_med.data.images import load_image, load_mask
from prs_med.data.records import Record
from prs_med.data.rows import read_records
from prs_med.data.split import split_records
from prs_med.evaluate.answering import Answer, Answerer
from prs_med.evaluate.generate import Sampling
from prs_med.evaluate.mask_metrics import mask_scores
from prs_med.evaluate.position_scores import position_scores
from prs_med.evaluate.text_metrics import text_scores
from prs_med.export.load import load_model
from prs_med.settings_io import parse_training_settings
from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import last_scores, rows
from tests.short_training import short

pytestmark = pytest.mark.distributed

TOKENS = 24
ASKED = [0, 1, 2, 4, 5]
"""Of 7 validation samples, 5 spread evenly."""
SAME_WEIGHTS = ["2proc_zero3", "1proc_zero2"]
"""Runs that validate the weights that another one trained."""
KINDS = ("image", "truth", "predicted")
PAIRS = ["zero2", "zero3_4bit"]
"""Runs that there are with and without answers."""


def arguments(data: Small, stage: int, batch_size: int, *more: str) -> list[str]:
    more = ("--precision", "fp32", "--batch_size", str(batch_size), *more)
    return short(data.arguments(), *more, config=stage)


def answered(tokens: int = TOKENS) -> list[str]:
    count = str(len(ASKED))
    return ["--validation_answers", count, "--validation_answer_tokens", str(tokens)]


@pytest.fixture(scope="module")
def uneven(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The small data, half of its modalities with answers of two words."""
    root = tmp_path_factory.mktemp("uneven") / "data"
    shutil.copytree(small.data, root)
    for name in ("phantom_endoscopy", "phantom_mri"):
        path = root / "annotations" / f"{name}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            for row in rows:
                zone = row["answer"].partition(" in the ")[2].partition(" of the ")[0]
                changed = {"question": "Where?", "answer": f"{zone.capitalize()}."}
                writer.writerow({**row, **changed})
    return replace(small, data=root)


@pytest.fixture(scope="module")
def runs(small: Small, uneven: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("validation")
    trained = arguments(
        *(uneven, 2, 2, "--finetune", "full", "--learning_rate", "3e-3", "--max_steps", "18"),
        *answered(),
    )
    again = ["--init_from", str(root / "trained" / "final"), "--learning_rate", "1e-12"]
    again += ["--max_steps", "1", *answered()]
    # Two validations, with a step behind the first.
    pair = ["--max_steps", "3"]
    jobs = [
        Job(root / "trained", trained),
        Job(root / "2proc_zero3", arguments(uneven, 3, 2, *again)),
    ]
    four_bits = ["--load_4bit", "--gradient_checkpointing"]
    for name, stage, more in (("zero2", 2, []), ("zero3_4bit", 3, four_bits)):
        both = arguments(small, stage, 6, *pair, *more)
        jobs += [Job(root / name, [*both, *answered(8)]), Job(root / f"{name}_without", both)]
    run_jobs(jobs, 2, root)
    run_jobs([Job(root / "1proc_zero2", arguments(uneven, 2, 4, *again))], 1, root)
    return root


def examples(run: Path) -> list[dict]:
    return json.loads((run / "validation" / "examples.json").read_text(encoding="utf-8"))


def records_of(data: Small) -> list[Record]:
    settings = parse_training_settings(data.arguments(), "")
    records = split_records(read_records(settings).records, 0.1, 0).val
    return [records[number] for number in ASKED]


def evaluated(run: Path, records: list[Record], tokens: int) -> list[Answer]:
    """What the trained weights answer where there is one process and no engine."""
    answerer = Answerer(load_model(str(run / "final")), Sampling(tokens))
    images = [load_image(record.image_path) for record in records]
    return answerer.answer(images, [record.question for record in records])


def test_answers_are_those_of_an_evaluation_of_the_trained_weights(
    runs: Path, uneven: Small
) -> None:
    records = records_of(uneven)
    answers = evaluated(runs / "trained", records, TOKENS)
    for run in ("trained", *SAME_WEIGHTS):
        found = examples(runs / run)
        assert [example["row_id"] for example in found] == [record.row_id for record in records]
        assert [example["predicted_answer"] for example in found] == [a.text for a in answers]


def test_answers_of_a_quantised_model_are_those_of_an_evaluation(runs: Path, small: Small) -> None:
    answers = evaluated(runs / "zero3_4bit", records_of(small), 8)
    found = examples(runs / "zero3_4bit")
    assert [example["predicted_answer"] for example in found] == [a.text for a in answers]


def test_processes_with_short_answers_went_on_for_those_with_long_ones(runs: Path) -> None:
    """Under ZeRO-3 they would wait for each other otherwise."""
    lengths = [len(example["predicted_answer"]) for example in examples(runs / "2proc_zero3")]
    # In batches of two, the first process has the first two and the other has the last.
    assert max(lengths[:2]) * 2 < lengths[-1]


@pytest.mark.parametrize("run", SAME_WEIGHTS)
def test_the_number_of_processes_changes_no_score(runs: Path, run: str) -> None:
    expected, found = last_scores(runs / "trained"), last_scores(runs / run)
    assert expected["val_samples"] == 7
    assert expected["val_answers"] == len(ASKED)
    assert expected["val_zone_accuracy"] is not None
    assert expected["val_answer_agrees_with_mask"] is not None
    for scores in (expected, found):
        del scores["step"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_scores_are_those_of_each_answer(runs: Path, uneven: Small) -> None:
    run = runs / "2proc_zero3"
    positions, words = [], []
    for record, example in zip(records_of(uneven), examples(run), strict=True):
        truth, predicted = (picture(run, example[kind]) > 0 for kind in ("truth", "predicted"))
        answer, reference = example["predicted_answer"], record.answer
        assert (example["question"], example["answer"]) == (record.question, reference)
        assert (example["modality"], example["step"]) == (record.modality, 1)
        # Of the reference answer, since the mask is stretched to the encoder's input.
        positions.append(position_scores(answer, reference, np.zeros_like(truth), predicted))
        words.append(text_scores(answer, reference).rouge_l)
        assert example["zone_correct"] == positions[-1].zone_correct
        assert example["dice"] == pytest.approx(mask_scores(predicted, truth).dice)
    scores = last_scores(run)
    means = {
        "val_zone_accuracy": [one.zone_correct for one in positions],
        "val_near_center_accuracy": [one.near_center_correct for one in positions],
        "val_answer_agrees_with_mask": [one.answer_agrees_with_mask for one in positions],
        "val_rouge_l": words,
    }
    for name, values in means.items():
        present = [value for value in values if value is not None]
        assert scores[name] == pytest.approx(np.mean(present)), name


def picture(run: Path, name: str) -> np.ndarray:
    with Image.open(run / "validation" / name) as image:
        return np.asarray(image)


def test_pictures_are_what_the_model_sees_and_draws(runs: Path, uneven: Small) -> None:
    run = runs / "2proc_zero3"
    for record, example in zip(records_of(uneven), examples(run), strict=True):
        image, truth = picture(run, example["image"]), picture(run, example["truth"])
        assert image.shape == (64, 64, 3)
        assert set(np.unique(truth)) <= {0, 255}
        assert set(np.unique(picture(run, example["predicted"]))) <= {0, 255}
        source = load_image(record.image_path).resize((64, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(image, np.asarray(source))
        assert truth.mean() / 255 == pytest.approx(load_mask(record.mask_path).mean(), abs=0.02)
    names = {name for example in examples(run) for name in map(example.get, KINDS)}
    assert {path.name for path in (run / "validation").iterdir()} == {"examples.json", *names}
    assert len(names) == 3 * len(ASKED)


@pytest.mark.parametrize("run", PAIRS)
def test_answers_change_nothing_in_training(runs: Path, run: str) -> None:
    """Bit for bit, dropout included."""
    with_answers, without = (
        [
            {name: line.get(name) for name in ("step", "loss", "grad_norm", "val_loss_txt")}
            for line in rows(runs / folder)
        ]
        for folder in (run, f"{run}_without")
    )
    assert with_answers == without
    assert [line["step"] for line in without] == [1, 2, 2, 3, 3]
    first, other = (
        {
            str(file.relative_to(runs / folder)): load_file(file)
            for file in sorted((runs / folder / "final").rglob("*.safetensors"))
        }
        for folder in (run, f"{run}_without")
    )
    assert [*first.values()]
    for one, tensors in zip(first.values(), other.values(), strict=True):
        assert one.keys() == tensors.keys()
        assert all(torch.equal(one[name], tensors[name]) for name in one)
    assert not (runs / f"{run}_without" / "validation").exists()
    assert "val_answers" not in last_scores(runs / f"{run}_without")
