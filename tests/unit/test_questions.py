"""Questions from annotation files, datasets, lists and folders."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prs_med.answering_config import EvaluationSettings
from prs_med.config import Settings
from prs_med.data.listed import read_listed
from prs_med.data.records import DataError
from prs_med.data.sources import read_annotations
from prs_med.evaluate.open_questions import open_split
from prs_med.evaluate.questions import (
    ImageQuestions,
    ListedQuestions,
    SomeQuestions,
    StoredQuestions,
)
from prs_med.programs.data import main

TRAINED_WITH = Settings()


@pytest.fixture(scope="module")
def dataset(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small row groups, so that the questions lie in several."""
    folder = tmp_path_factory.mktemp("dataset") / "stored"
    arguments = ("--data_root", str(small.data), "--output", str(folder))
    assert main(["build", *arguments, "--row_group_mb", "0.05"]) == 0
    return folder


def test_a_dataset_asks_what_its_csv_files_ask(small, dataset: Path) -> None:
    stored = open_split(EvaluationSettings(data=str(dataset), split="train"), TRAINED_WITH, True)
    rows = read_annotations(small.data, None, "error").records
    expected = {record.row_id: record for record in rows if record.split == "train"}
    questions = stored.questions
    assert isinstance(questions, StoredQuestions)
    assert len(questions) == len(expected) == 24
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: (questions.question(n), questions.pixels(n)), range(24)))
    for question, (image, mask) in found:
        record = expected.pop(question.row_id)
        assert (question.text, question.answer) == (record.question, record.answer)
        assert question.modality == record.modality
        assert (small.data / question.image).samefile(record.image_path)
        assert question.group == (record.group or question.image)
        with Image.open(record.image_path) as source, Image.open(record.mask_path) as truth:
            assert (np.asarray(image) == np.asarray(source.convert("RGB"))).all()
            assert (mask == (np.asarray(truth.convert("L")) > 127)).all()
    assert not expected
    with pytest.raises(DataError, match=r"dataset\.json: no such file"):
        open_split(EvaluationSettings(data=str(dataset / "data")), TRAINED_WITH, True)


def test_some_of_them_keep_their_order(dataset: Path) -> None:
    opened = open_split(EvaluationSettings(data=str(dataset), split="train"), TRAINED_WITH, True)
    some = SomeQuestions(opened.questions, [3, 7, 20])
    assert len(some) == 3
    for number, of_all in enumerate([3, 7, 20]):
        assert some.question(number) == opened.questions.question(of_all)
        image, other = some.pixels(number)[0], opened.questions.pixels(of_all)[0]
        assert image.tobytes() == other.tobytes()


def test_a_bad_row_is_asked_where_its_split_is(small, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    table = root / "annotations" / "phantom_mri.csv"
    header, *lines = table.read_text().splitlines()
    bad = [
        "phantom_mri/test_masks/none.png,none.png,Where?,Top left.,,test",
        "phantom_mri/train_masks/none.png,none.png,Where?,Top left.,,train",
    ]
    table.write_text("\n".join([header, *bad, *lines]) + "\n")
    settings = EvaluationSettings(data_root=str(root))
    questions = open_split(settings, TRAINED_WITH, strict=False).questions
    assert len(questions) == 7
    last = questions.question(6)
    assert (last.row_id, last.modality) == ("phantom_mri.csv:2", "phantom_mri")
    assert (last.text, last.answer) == ("Where?", "Top left.")
    with pytest.raises(DataError, match=r"^phantom_mri.csv:2: no image file"):
        questions.pixels(6)
    table.write_text("\n".join([header, "phantom_mri/x.png,x.png,Where?,Left.,,tset"]) + "\n")
    with pytest.raises(DataError, match="unknown split 'tset'"):
        open_split(settings, TRAINED_WITH, strict=False)


def of_patients(small, tmp_path: Path, column: str = "patient_id") -> Path:
    """The small data with a column in one file that says which of three patients a row is of."""
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    for table in (root / "annotations").glob("*.csv"):
        header, *lines = table.read_text().splitlines()
        named = [f"{line},p{number % 3}" for number, line in enumerate(lines)]
        table.write_text("\n".join([f"{header},{column}", *named]) + "\n")
    return root


@pytest.mark.parametrize(
    ("column", "asked", "trained"),
    [
        ("patient_id", None, None),
        ("who", "who", None),
        ("who", None, "who"),
        ("patient_id", None, "a column that this data has not"),
    ],
)
def test_questions_about_a_patient_are_one_group(
    small, tmp_path: Path, column: str, asked: str | None, trained: str | None
) -> None:
    """In the test split too: whether the column is known, named now, or was named in training."""
    root = of_patients(small, tmp_path, column)
    settings = EvaluationSettings(data_root=str(root), group_column=asked)
    questions = open_split(settings, Settings(group_column=trained), strict=False).questions
    assert {questions.question(n).group for n in range(6)} <= {"p0", "p1", "p2"}


def test_without_a_known_patient_each_image_is_a_group(small, tmp_path: Path) -> None:
    root = of_patients(small, tmp_path, "who")
    questions = open_split(EvaluationSettings(data_root=str(root)), TRAINED_WITH, False).questions
    assert all(questions.question(n).group == questions.question(n).image for n in range(6))
    with pytest.raises(DataError, match="--group_column doctor: no such column"):
        open_split(
            EvaluationSettings(data_root=str(root), group_column="doctor"), TRAINED_WITH, False
        )


def test_a_bad_row_is_of_its_patient(small, tmp_path: Path) -> None:
    root = of_patients(small, tmp_path)
    table = root / "annotations" / "phantom_mri.csv"
    header, *lines = table.read_text().splitlines()
    bad = "phantom_mri/test_masks/none.png,none.png,Where?,,,test, P1"
    table.write_text("\n".join([header, *lines, bad]) + "\n")
    questions = open_split(EvaluationSettings(data_root=str(root)), TRAINED_WITH, False).questions
    assert questions.question(6).group == "p1"


def test_a_bad_row_is_of_the_image_or_patient_that_it_names(small, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    whole = open_split(EvaluationSettings(data_root=str(root)), TRAINED_WITH, False).questions
    first = whole.question(0)
    (root / "annotations" / "more_test.csv").write_text(
        "image_path,mask_path,task,question,answer,split\n"
        f"{first.image},{first.mask},phantom,,Top left.,test\n"
        "breast_tumors/a/none.png,none.png,breast_tumors,Where?,Top left.,test\n"
        "lung_CT/ID00010637202177584971671_12.png,none.png,lung_CT,Where?,Top left.,test\n"
    )
    questions = open_split(EvaluationSettings(data_root=str(root)), TRAINED_WITH, False).questions
    assert len(questions) == len(whole) + 3
    assert {questions.question(n).group for n in range(len(whole), len(questions))} == {
        first.group,
        "breast_tumors/a/none.png",
        "lung_CT/ID00010637202177584971671",
    }


def test_where_the_column_of_the_training_is_no_other_decides(small, tmp_path: Path) -> None:
    root = of_patients(small, tmp_path, "who")
    for table in (root / "annotations").glob("*.csv"):
        header, *lines = table.read_text().splitlines()
        named = [f"{line},1,2" for line in lines]
        table.write_text("\n".join([f"{header},patient_id,subject", *named]) + "\n")
    settings = EvaluationSettings(data_root=str(root))
    questions = open_split(settings, Settings(group_column="who"), strict=False).questions
    assert {questions.question(n).group for n in range(6)} <= {"p0", "p1", "p2"}
    with pytest.raises(DataError, match="'patient_id' and 'subject' mean the same"):
        open_split(settings, TRAINED_WITH, strict=False)


def test_which_patients_training_held_out_is_not_decided_by_another_column(
    small, tmp_path: Path
) -> None:
    root = of_patients(small, tmp_path, "who")
    settings = EvaluationSettings(data_root=str(root), split="val", group_column="who")
    # Rows that are labelled val were not chosen by patient.
    assert len(open_split(settings, TRAINED_WITH, False).questions) == 7
    for table in (root / "annotations").glob("*.csv"):
        table.write_text(table.read_text().replace(",val,", ",train,"))
    with pytest.raises(DataError, match="--group_column who: no row is labelled val"):
        open_split(settings, TRAINED_WITH, False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_without_questions_is_refused(small, tmp_path: Path, split: str) -> None:
    known = "phantom_endoscopy, phantom_mri, phantom_ultrasound, phantom_xray"
    for tasks in ("phantom_mri,lung_CT", "lung_CT"):
        settings = EvaluationSettings(data_root=str(small.data), split=split, tasks=tasks)
        with pytest.raises(
            DataError, match=f"--tasks lung_CT: .* --split {split} .* have "
        ) as info:
            open_split(settings, TRAINED_WITH, False)
        assert set(str(info.value).split(" have ")[1].split(", ")) <= set(known.split(", "))
    settings = EvaluationSettings(data_root=str(small.data), split=split, tasks="phantom_mri")
    questions = open_split(settings, TRAINED_WITH, False).questions
    assert {questions.question(n).modality for n in range(len(questions))} == {"phantom_mri"}


def test_a_bad_row_of_another_task_is_not_asked_and_one_of_no_task_is_an_error(
    small, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    table = root / "annotations" / "phantom_mri.csv"
    text = table.read_text()
    bad = "phantom_xray/test_masks/none.png,none.png,Where?,,,test"
    table.write_text(f"{text}{bad}\n")
    settings = EvaluationSettings(data_root=str(root), tasks="phantom_mri")
    questions = open_split(settings, TRAINED_WITH, False).questions
    whole = replace(settings, data_root=str(small.data))
    assert len(questions) == len(open_split(whole, TRAINED_WITH, False).questions)
    table.write_text(f"{text}none.png,none.png,Where?,,,test\n")
    with pytest.raises(DataError, match=r"phantom_mri\.csv:.*none\.png"):
        open_split(settings, TRAINED_WITH, False)


def test_the_true_mask_is_known_where_the_image_is_not(
    small, dataset: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    settings = EvaluationSettings(data_root=str(root))
    questions = open_split(settings, TRAINED_WITH, False).questions
    expected = questions.pixels(0)[1]
    (root / questions.question(0).image).write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="not a readable image"):
        questions.pixels(0)
    assert (questions.truth(0) == expected).all()
    (root / questions.question(0).mask).unlink()
    with pytest.raises(DataError, match="no such file"):
        questions.truth(0)
    stored = open_split(EvaluationSettings(data=str(dataset)), TRAINED_WITH, True).questions
    assert (stored.truth(3) == stored.pixels(3)[1]).all()
    assert (SomeQuestions(stored, [3]).truth(0) == stored.truth(3)).all()


def test_a_row_that_cannot_be_read_has_lost_its_answer(small, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small.data, root)
    (root / "annotations" / "test.csv").write_text(
        "image_path,task,question,answer\n,a,b,c,d,e,f,g,h\n"
        "phantom_mri/test_masks/none.png,phantom_mri,Where?,\n"
    )
    questions = open_split(EvaluationSettings(data_root=str(root)), TRAINED_WITH, False).questions
    unread, unanswered = (questions.question(n) for n in (6, 7))
    assert (unread.answer, unread.answer_lost) == (None, True)
    assert (unanswered.answer, unanswered.answer_lost) == (None, False)


def test_images_are_asked_about_without_an_answer(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "b.png")
    questions = ImageQuestions([tmp_path / "b.png"], "Where?")
    image, mask = questions.pixels(0)
    assert (image.size, image.mode, mask) == ((3, 2), "RGB", None)
    assert questions.question(0).text == "Where?"
    assert questions.question(0).answer is None


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "test_images").mkdir()
    (tmp_path / "test_masks").mkdir()
    Image.new("RGB", (4, 3), (9, 9, 9)).save(tmp_path / "test_images" / "a.png")
    Image.new("L", (4, 3), 255).save(tmp_path / "test_masks" / "a.png")
    table = tmp_path / "list.csv"
    table.write_text(
        "image,question,answer,mask_path\n"
        "test_images/a.png,Where?,,\n"
        "test_masks/a.png,Where?,Top left.,test_masks/a.png\n"
        "test_images/b.png,Where?,,\n"
    )
    questions = ListedQuestions(read_listed(table, tmp_path), tmp_path)
    assert len(questions) == 3
    assert questions.pixels(0)[1] is None
    assert questions.question(0).answer is None
    # The path of the mask must not be shown to the model as the image.
    image, mask = questions.pixels(1)
    assert image.getpixel((0, 0)) == (9, 9, 9)
    assert mask is not None
    assert mask.all()
    with pytest.raises(DataError, match=r"^list.csv:4: no image file"):
        questions.pixels(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_path\na.png\n", "list.csv:1: column 'question' is missing"),
        ("question\nWhere?\n", "list.csv:1: column 'image_path' is missing"),
        ("image_path,question\n", "list.csv: holds no row"),
        ("image_path,question\na.png,\n", "list.csv:2: the question is empty"),
        ("image_path,question\n../a.png,Where?\n", "list.csv:2: image_path .* leads out"),
        ("image_path,question\na.png,Left, right?\n", "list.csv:2: 3 fields, but 2 columns"),
        (
            "image_path,question,mask_path\na.png,Where?,/etc/passwd\n",
            "list.csv:2: mask_path .* leads out",
        ),
    ],
)
def test_a_list_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_listed(tmp_path / "list.csv", tmp_path)
