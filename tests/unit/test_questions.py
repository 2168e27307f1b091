"""Questions from annotation files, datasets, lists and folders."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
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
    images_in,
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


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (3, 2)).save(tmp_path / name, "png")
    (tmp_path / "d.txt").write_text("")
    found = images_in(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/c.JPG", "b.png"]
    questions = ImageQuestions(found, "Where?")
    image, mask = questions.pixels(1)
    assert (image.size, image.mode, mask) == ((3, 2), "RGB", None)
    assert questions.question(1).text == "Where?"
    assert questions.question(1).answer is None
    with pytest.raises(DataError, match="no image file"):
        images_in(tmp_path / "d.txt")


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
