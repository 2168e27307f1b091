"""launch/data.py as its users run it: make, check and look at a dataset."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prs_med.data.dataset.checksums import checksum
from prs_med.data.dataset.index import DatasetIndex, read_index
from prs_med.programs.data import main
from prs_med.storage.directory import DirectoryStore


@pytest.fixture(scope="module")
def program() -> Callable[..., int]:
    return lambda *argv: main([str(part) for part in argv])


@pytest.fixture(scope="module")
def made(program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root and a dataset of it."""
    folder = tmp_path_factory.mktemp("made")
    counts = ("--train", 24, "--val", 8, "--test", 4, "--size", 64)
    assert program("synthesize", "--output", folder / "root", *counts) == 0
    sizes = ("--row_group_mb", 0.04, "--shard_mb", 0.12)
    assert program("build", "--data_root", folder / "root", "--output", folder / "set", *sizes) == 0
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(made / "set", tmp_path / "set"))


def test_a_good_dataset_passes(program, made: Path, capsys) -> None:
    assert program("check", "--data", made / "set") == 0
    shown = capsys.readouterr().out
    assert "36 images and 36 questions checked" in shown
    assert all(line.split()[0] == "0" for line in shown.splitlines()[1:])


def test_building_again_changes_nothing(program, made: Path, capsys) -> None:
    sizes = ("--row_group_mb", 0.04, "--shard_mb", 0.12)
    again = ("build", "--data_root", made / "root", "--output", made / "set")
    assert program(*again, *sizes) == 0
    assert "there already" in capsys.readouterr().out
    assert program(*again) == 2
    assert "give another --output" in capsys.readouterr().err


def rewritten(dataset: Path, change: Callable[[dict], None], split: str = "train") -> str:
    """Change the first row of a split and put all checksums right again; the row's id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = read_index(DirectoryStore(dataset)).index
    shard = index.splits[split].shards[0]
    path = dataset / shard.name
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, row_group_size=len(rows))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    new = replace(
        shard,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        row_groups=replace(
            shard.row_groups,
            rows=[len(rows)],
            targets=[sum(len(row["targets"]) for row in rows)],
            offsets=[4],
            lengths=[footer - 4],
            checksums=[checksum(data[4:footer])],
        ),
        footer=replace(shard.footer, offset=footer, checksum=checksum(data[footer:])),
    )
    shards = [new, *index.splits[split].shards[1:]]
    splits = {**index.splits, split: replace(index.splits[split], shards=shards)}
    changed: DatasetIndex = replace(index, splits=splits)
    (dataset / "dataset.json").write_text(changed.dumps(), encoding="utf-8")
    return str(rows[0]["targets"][0]["row_id"])


def encoded(mask: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def set_target(name: str, value: object) -> Callable[[dict], None]:
    return lambda row: row["targets"][0].__setitem__(name, value)


def other_zone(row: dict) -> None:
    zone = row["targets"][0]["zone"]
    row["targets"][0]["zone"] = "top left" if zone != "top left" else "bottom right"


def other_answer(row: dict) -> None:
    zone = row["targets"][0]["zone"]
    said = "top left" if zone != "top left" else "bottom right"
    row["targets"][0]["answer"] = f"It is in the {said} of the image."


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda row: row["image"].update(bytes=row["image"]["bytes"][:99]), "image"),
        (set_target("mask", {"bytes": b"no image", "path": "m.png"}), "mask"),
        (
            set_target("mask", {"bytes": encoded(np.full((9, 9), 255, np.uint8)), "path": "m"}),
            "size",
        ),
        (lambda row: row.update(width=65), "size"),
        (other_zone, "zone"),
        (set_target("near_center", None), "zone"),
        (other_answer, "answer zone"),
    ],
)
def test_what_is_wrong_is_found_with_its_row(
    program, dataset: Path, tmp_path: Path, change, kind: str, capsys
) -> None:
    row_id = rewritten(dataset, change)
    assert program("check", "--data", dataset, "--output", tmp_path / "found.jsonl") == 1
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert (kind, row_id) in [(entry["kind"], entry["row_id"]) for entry in found]
    assert {entry["row_id"] for entry in found} == {row_id}
    assert "row group 0, row 0" in found[0]["where"]
    assert row_id in capsys.readouterr().out


def test_an_answer_without_a_zone_is_a_note_only(program, dataset: Path, capsys) -> None:
    rewritten(dataset, set_target("answer", "There is a tumor."))
    assert program("check", "--data", dataset) == 0
    assert "1 answers are unclear" in capsys.readouterr().out


GERMAN = "Der Tumor liegt oben links im Bild."


def test_answers_in_another_language_are_counted_until_their_words_are_given(
    program, dataset: Path, tmp_path: Path, capsys
) -> None:
    def german(row: dict) -> None:
        set_target("answer", GERMAN)(row)

    rewritten(dataset, german)
    assert program("check", "--data", dataset) == 0
    shown = capsys.readouterr().out
    assert "1 answers are in another language" in shown
    assert "1 questions have words that --augment_flip does not know" in shown
    output = ("--output_dir", tmp_path / "stats", "--pictures", 0)
    assert program("stats", "--data", dataset, *output) == 0
    parts = json.loads((tmp_path / "stats" / "stats.json").read_text())["train"].values()
    assert sum(part["answers_in_other_language"] for part in parts) == 1
    assert sum(part["not_flipped"] for part in parts) == 1
    assert sum(part["unclear_answers"] for part in parts) == 0
    capsys.readouterr()
    program("check", "--data", dataset, "--position_words", "de")
    assert "another language" not in capsys.readouterr().out
    assert program("check", "--data", dataset, "--position_words", "nl.yaml") == 2
    assert "error: --position_words nl.yaml: not a table of words" in capsys.readouterr().err


def test_any_flipped_byte_is_found(program, dataset: Path) -> None:
    rng = np.random.default_rng(0)
    shards = sorted((dataset / "data").glob("*.parquet"))
    for _ in range(12):
        path = shards[int(rng.integers(len(shards)))]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        assert program("check", "--data", dataset) == 1
        path.write_bytes(whole)
    assert program("check", "--data", dataset) == 0


def test_shards_that_are_cut_or_gone_are_found(program, dataset: Path, capsys) -> None:
    first, second, *_ = sorted((dataset / "data").glob("train-*.parquet"))
    first.write_bytes(first.read_bytes()[:-50])
    second.unlink()
    assert program("check", "--data", dataset) == 1
    shown = capsys.readouterr().out
    assert f"{first}: has {first.stat().st_size} bytes" in shown
    assert f"{second}: no such file" in shown


def test_shards_beside_the_dataset_are_found(program, dataset: Path, capsys) -> None:
    """As an upload over an older dataset leaves them."""
    first = sorted((dataset / "data").glob("train-*.parquet"))[0]
    shutil.copy(first, dataset / "data" / "train-00099-0123456789ab.parquet")
    assert program("check", "--data", dataset) == 1
    shown = capsys.readouterr().out
    assert "1 Parquet files are not in dataset.json" in shown
    assert f"{dataset / 'data' / 'train-00099-0123456789ab.parquet'}: remove it" in shown


def test_a_damaged_split_file_is_found(program, dataset: Path, capsys) -> None:
    (dataset / "split.json").write_bytes(b"{}")
    assert program("check", "--data", dataset) == 1
    assert "1 split.json is missing or damaged" in capsys.readouterr().out
    (dataset / "split.json").unlink()
    assert program("check", "--data", dataset) == 1


def test_scans_without_labels_give_a_test_split(
    program, made: Path, tmp_path: Path, capsys
) -> None:
    """The last step of the quick start, for data of which all is labelled train."""
    root = Path(shutil.copytree(made / "root", tmp_path / "root"))
    for table in (root / "annotations").glob("*.csv"):
        text = table.read_text(encoding="utf-8")
        table.write_text(re.sub(r",(train|val|test)$", ",train", text, flags=re.M))
    build = ("build", "--data_root", root, "--test_fraction", 0.2, "--val_fraction", 0.1)
    assert program(*build, "--output", tmp_path / "set") == 0
    assert "held out for the test (--test_fraction): 7 of 36 images" in capsys.readouterr().out
    index = read_index(DirectoryStore(tmp_path / "set")).index
    assert {name: split.rows for name, split in index.splits.items()} == {
        "train": 25, "val": 4, "test": 7,
    }  # fmt: skip
    assert "7 of 36 images" in index.held_out


def test_stats_count_and_show(program, made: Path, tmp_path: Path, capsys) -> None:
    assert program("stats", "--data", made / "set", "--output_dir", tmp_path, "--pictures", 7) == 0
    found = json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))
    assert {split: sum(p["images"] for p in parts.values()) for split, parts in found.items()} == {
        "train": 24,
        "val": 8,
        "test": 4,
    }
    train = found["train"]["phantom_mri"]
    assert sum(train["zones"].values()) == train["questions"] == 6
    assert train["width"] == {"least": 64, "median": 64.0, "most": 64}
    with Image.open(tmp_path / "samples.png") as sheet:
        # Two rows of pictures, of which the second has one.
        assert sheet.height > sheet.width / 3
        assert len(sheet.convert("RGB").getcolors(10**6)) > 100
    assert "phantom_ultrasound" in capsys.readouterr().out


def test_stats_of_another_dataset_are_not_replaced(
    program, made: Path, tmp_path: Path, capsys
) -> None:
    small = ("--train", 3, "--val", 1, "--test", 1, "--size", 32)
    assert program("synthesize", "--output", tmp_path / "root", *small) == 0
    assert program("build", "--data_root", tmp_path / "root", "--output", tmp_path / "other") == 0
    output = ("--output_dir", tmp_path / "stats", "--pictures", 0)
    assert program("stats", "--data", made / "set", *output) == 0
    before = (tmp_path / "stats" / "stats.json").read_text()
    assert program("stats", "--data", made / "set", *output) == 0
    capsys.readouterr()
    assert program("stats", "--data", tmp_path / "other", *output) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"holds what 'stats' made of data {made / 'set'}" in line
    assert line.endswith("give another folder, or --overwrite to replace it")
    assert (tmp_path / "stats" / "stats.json").read_text() == before
    assert program("stats", "--data", tmp_path / "other", *output, "--overwrite") == 0
    assert (tmp_path / "stats" / "stats.json").read_text() != before


@pytest.mark.parametrize(
    "where", ["file.txt/below", "file.txt/below/it", "s3://bucket/x", "nowhere/x"]
)
def test_an_output_that_cannot_be_written_is_one_line(
    program, made: Path, tmp_path: Path, capsys, monkeypatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for flag, *arguments in (
        ("--output_dir", "stats", "--data", made / "set"),
        ("--output", "check", "--data", made / "set"),
        ("--output", "synthesize"),
        ("--output", "annotate", "--data_root", made / "root"),
        ("--output", "slices", "--scans", made / "root", "--task", "a"),
    ):
        assert program(*arguments, flag, where) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith(f"error: {flag} {where}: ")
        assert len(line.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt", "nowhere"]


def test_annotated_masks_become_a_dataset_without_findings(
    program, made: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(made / "root", tmp_path / "root"))
    shutil.rmtree(root / "annotations")
    assert program("annotate", "--data_root", root, "--questions_per_target", 2) == 0
    assert program("build", "--data_root", root, "--output", tmp_path / "set") == 0
    assert program("check", "--data", tmp_path / "set") == 0
    index = read_index(DirectoryStore(tmp_path / "set")).index
    assert index.splits["train"].rows == 24
    assert index.splits["train"].targets >= 48


def test_scans_become_a_dataset(program, tmp_path: Path) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    for case in ("one", "two", "three"):
        volume = rng.integers(-1000, 400, (40, 36, 6)).astype(np.int16)
        label = np.zeros(volume.shape, np.uint8)
        corner = int(rng.integers(2, 20))
        label[corner : corner + 9, corner : corner + 8, 1:5] = 1
        for folder, array in (("scans", volume), ("masks", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0]))
            nibabel.save(image, tmp_path / folder / f"{case}.nii.gz")
    root = tmp_path / "root"
    sources = ("--scans", tmp_path / "scans", "--masks", tmp_path / "masks")
    named = ("--task", "lung_CT", "--modality", "CT", "--window", "lung")
    assert program("slices", *sources, *named, "--output", root) == 0
    assert program("annotate", "--data_root", root, "--pairs", root / "lung_CT_pairs.csv") == 0
    assert program("build", "--data_root", root, "--output", tmp_path / "set") == 0
    assert program("check", "--data", tmp_path / "set") == 0
    splits = read_index(DirectoryStore(tmp_path / "set")).index.splits
    # Four slices of each case show something; the slices of a case stay in one split.
    assert {name: split.rows for name, split in splits.items()} == {"train": 8, "val": 4}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["biuld"], "biuld: allowed are slices, annotate, build"),
        (["build"], "--data_root is required"),
        (["build", "--data_root", "x", "--output", "gs://b/x"], "no annotation file"),
        (["check", "--data", "gs://b/x"], "gs:// is not known here"),
        (["check", "--data", "/nowhere"], "dataset.json: no such file"),
        (["build", "--row_group_mb", "8", "--shard_mb", "4"], "--row_group_mb 8.0: a row group"),
        (["synthesize", "--size", "8", "--output", "x"], "--size 8: allowed is at least 32"),
        (["stats", "--pictures", "-1"], "--pictures -1: allowed is 0 or more"),
        (["build", "--fold", "6/5"], "--fold 6/5: allowed is NUMBER/PARTS"),
        (["build", "--fold", "two"], "--fold two: allowed is NUMBER/PARTS"),
        (["build", "--fold", "1/5", "--val_fraction", "0.2"], "exclude each other"),
        (["build", "--test_fraction", "1"], "--test_fraction 1.0: allowed is 0 <= value < 1"),
    ],
)
def test_mistakes_end_in_one_line(program, capsys, argv: list[str], message: str) -> None:
    assert program(*argv) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("command", ["slices", "annotate", "build", "check", "stats", "synthesize"])
def test_help_explains_each_command(program, capsys, command: str) -> None:
    assert program(command, "--help") == 0
    assert "--" in capsys.readouterr().out
