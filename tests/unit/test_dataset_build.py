"""From annotation files to shards: what is in them, and what an interrupted build does."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prs_med.data.dataset.build import Built, Layout, build
from prs_med.data.dataset.check import check
from prs_med.data.dataset.index import DatasetIndex, parse_index, read_index
from prs_med.data.images import decode_mask, load_mask
from prs_med.data.phantoms import write_phantoms
from prs_med.data.position import position_of
from prs_med.data.records import DataError, Record
from prs_med.data.rows import choose_classes
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records
from prs_med.data.stored_split import read_split
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.mask_classes import class_named, parse_classes
from prs_med.programs.data import main
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import StorageError
from tests.small_dataset import ask_again, files

MIB = 2**20
SMALL = Layout(int(0.04 * MIB), int(0.12 * MIB), shuffle=True, seed=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of which every image has two questions."""
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(folder, {"train": 40, "val": 8, "test": 5}, size=64, seed=4)
    ask_again(folder, "exactly")
    return folder


def records_of(root: Path) -> list[Record]:
    return read_annotations(root, None, "error").records


def built(root: Path, output: Path, layout: Layout = SMALL, **options: object) -> Built:
    defaults = {"held_out": "", "skip_bad_rows": False, "allow_duplicates": False, "workers": 2}
    return build(
        split_records(records_of(root), 0.1, 0),
        root,
        DirectoryStore(output),
        layout,
        show_progress=False,
        **{**defaults, **options},
    )


def test_every_row_is_there_with_the_bytes_of_its_files(root: Path, tmp_path: Path) -> None:
    result = built(root, tmp_path)
    assert result.index.splits["train"].rows == 40
    assert result.index.splits["train"].targets == 80
    store = DirectoryStore(tmp_path)
    opened = read_index(store)
    for name in ("train", "val", "test"):
        source = RowGroupSource(store, opened.split(name))
        found = {}
        for number in range(len(source)):
            group = source.read(number)
            assert (group.rows, group.targets) == (source.rows()[number], source.targets()[number])
            for row in range(group.rows):
                image = group.image(row)
                assert len(image.targets) == 2
                for target in image.targets:
                    found[target.row_id] = (image, target)
        expected = [record for record in records_of(root) if record.split == name]
        assert set(found) == {record.row_id for record in expected}
        for record in expected:
            image, target = found[record.row_id]
            assert image.image == record.image_path.read_bytes()
            assert target.mask == record.mask_path.read_bytes()
            assert (target.question, target.answer) == (record.question, record.answer)
            assert image.modality == record.modality
            position = position_of(load_mask(record.mask_path))
            assert (target.zone, target.near_center) == (position.zone, position.near_center)


def test_hugging_face_datasets_opens_it_by_itself(root: Path, tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    built(root, tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {
        "train": 40,
        "validation": 8,
        "test": 5,
    }
    train = loaded["train"]
    assert isinstance(train.features["image"], ImageFeature)
    row = train[0]
    assert row["image"].size == (row["width"], row["height"]) == (64, 64)
    assert isinstance(row["targets"][0]["mask"], Image.Image)
    streamed = load_dataset(str(tmp_path / "out"), split="train", streaming=True)
    assert next(iter(streamed))["targets"][0]["question"]


def test_sizes_are_those_asked_for_and_training_images_are_mixed(
    root: Path, tmp_path: Path
) -> None:
    index = built(root, tmp_path / "mixed").index
    train = index.splits["train"]
    assert len(train.shards) > 2
    for shard in train.shards:
        assert shard.size < 2 * SMALL.shard_bytes
        for length in shard.row_groups.lengths:
            assert length < 2 * SMALL.row_group_bytes

    def modalities(folder: Path) -> list[str]:
        store = DirectoryStore(folder)
        source = RowGroupSource(store, read_index(store).split("train"))
        groups = [source.read(number) for number in range(len(source))]
        return [str(group.image(row).modality) for group in groups for row in range(group.rows)]

    layout = replace(SMALL, shuffle=False)
    built(root, tmp_path / "sorted", layout)
    assert modalities(tmp_path / "sorted") == sorted(modalities(tmp_path / "sorted"))
    assert modalities(tmp_path / "mixed") != modalities(tmp_path / "sorted")


def test_the_same_inputs_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    built(root, tmp_path / "a", workers=1)
    built(root, tmp_path / "b", workers=3)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_finished_build_is_left_as_it_is(root: Path, tmp_path: Path) -> None:
    first = built(root, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = built(root, tmp_path)
    assert again.written == 0
    assert again.index == first.index
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    with pytest.raises(DataError, match=r"another dataset|other settings"):
        built(root, tmp_path, replace(SMALL, row_group_bytes=30_000))


def test_a_build_killed_before_it_cleared_up_is_cleared_up_after(
    root: Path, tmp_path: Path, monkeypatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryStore, "delete", lambda self, name: None)
        built(root, tmp_path)
    assert list(tmp_path.glob("_build/*.json"))
    assert built(root, tmp_path).written == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "dataset.json",
        "split.json",
    ]


def test_dataset_json_is_written_last(root: Path, tmp_path: Path, monkeypatch) -> None:
    written: list[str] = []
    for method in ("write", "write_file"):
        really = getattr(DirectoryStore, method)

        def recording(self, name: str, content: object, really=really) -> None:
            written.append(name)
            really(self, name, content)

        monkeypatch.setattr(DirectoryStore, method, recording)
    built(root, tmp_path)
    assert written[-1] == "dataset.json"
    assert written.count("dataset.json") == 1
    assert not list((tmp_path / "_build").glob("*"))


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root, tmp_path / "copied")
    return tmp_path / "copied"


def damage_image(record: Record) -> None:
    record.image_path.write_bytes(record.image_path.read_bytes()[:200])


def damage_mask(record: Record) -> None:
    record.mask_path.write_bytes(b"no image")


def shrink_mask(record: Record) -> None:
    with Image.open(record.mask_path) as mask:
        mask.resize((32, 32)).save(record.mask_path)


@pytest.mark.parametrize("damage", [damage_image, damage_mask, shrink_mask])
def test_a_bad_row_is_an_error_or_is_listed(copied: Path, tmp_path: Path, damage) -> None:
    record = records_of(copied)[3]
    damage(record)
    twins = [r.row_id for r in records_of(copied) if r.image_path == record.image_path]
    assert len(twins) == 2
    with pytest.raises(DataError, match=record.row_id):
        built(copied, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    result = built(copied, tmp_path / "out", skip_bad_rows=True)
    assert sorted(row.split(": ")[0] for row in result.bad_rows) == sorted(twins)
    assert result.index.splits["train"].rows == 39
    assert result.index.splits["train"].targets == 78


@pytest.mark.parametrize("what", ["image", "mask"])
def test_other_files_of_the_same_names_sizes_and_times_are_noticed(
    copied: Path, tmp_path: Path, what: str
) -> None:
    before = built(copied, tmp_path / "out")
    path = getattr(records_of(copied)[0], f"{what}_path")
    state = path.stat()
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image)[::-1]).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: state.st_size].ljust(state.st_size, b"\0"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match="built from other files"):
        built(copied, tmp_path / "out")
    assert built(copied, tmp_path / "new").index.built_from != before.index.built_from


def test_a_copy_of_the_data_elsewhere_gives_the_same_dataset(
    root: Path, copied: Path, tmp_path: Path
) -> None:
    for path in copied.rglob("*.png"):
        os.utime(path)
    built(root, tmp_path / "a")
    built(copied, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_build_that_was_given_up_leaves_no_shards_behind(copied: Path, tmp_path: Path) -> None:
    """Shards of the rows as they were before, which load_dataset would read with the others."""
    records = records_of(copied)
    train = next(r for r in records if r.split == "train")
    test = next(r for r in records if r.split == "test")
    kept = test.image_path.read_bytes()
    shutil.copy(train.image_path, test.image_path)
    with pytest.raises(DataError, match="one image is in train"):
        built(copied, tmp_path / "out")
    assert list((tmp_path / "out" / "data").glob("test-*"))
    test.image_path.write_bytes(kept)
    result = built(copied, tmp_path / "out")
    assert result.removed == 1
    named = {shard.name for split in result.index.splits.values() for shard in split.shards}
    assert {f"data/{path.name}" for path in (tmp_path / "out" / "data").iterdir()} == named
    built(copied, tmp_path / "fresh")
    assert files(tmp_path / "out") == files(tmp_path / "fresh")
    # What an earlier version left beside a finished dataset goes, too.
    shutil.copy(
        next((tmp_path / "out" / "data").glob("test-*")),
        tmp_path / "out" / "data" / "test-00007-0123456789ab.parquet",
    )
    again = built(copied, tmp_path / "out")
    assert (again.written, again.removed) == (0, 1)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_parquet_files_of_others_are_left_alone_and_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    foreign = tmp_path / "data" / "train-mine.parquet"
    foreign.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"train-mine\.parquet: no build made this file"):
        built(root, tmp_path)
    assert files(tmp_path) == {"data/train-mine.parquet": b"mine"}


def test_a_dataset_that_another_build_finished_meanwhile_is_left_as_it_is(
    root: Path, tmp_path: Path, monkeypatch
) -> None:
    really, others = DirectoryStore.write_file, []

    def slow(self, name: str, source: Path) -> None:
        if not others:
            others.append(name)
            built(root, tmp_path, replace(SMALL, seed=9))
        really(self, name, source)

    monkeypatch.setattr(DirectoryStore, "write_file", slow)
    with pytest.raises(DataError, match="another build has written"):
        built(root, tmp_path)
    built(root, tmp_path / "fresh", replace(SMALL, seed=9))
    left = {name: data for name, data in files(tmp_path).items() if "_build" not in name}
    fresh = files(tmp_path / "fresh")
    assert {name: data for name, data in left.items() if "fresh" not in name} == fresh


@pytest.mark.parametrize("what", ["image", "mask"])
def test_duplicates_across_splits_are_found(copied: Path, tmp_path: Path, what: str) -> None:
    records = records_of(copied)
    train = next(r for r in records if r.split == "train")
    test = next(r for r in records if r.split == "test")
    shutil.copy(getattr(train, f"{what}_path"), getattr(test, f"{what}_path"))
    with pytest.raises(DataError, match=f"one {what} is in train .*and in test .*allow_dupl"):
        built(copied, tmp_path / "out")
    result = built(copied, tmp_path / "out", allow_duplicates=True)
    assert result.written == 0 or result.index.duplicates
    assert len(result.index.duplicates) == 1
    assert train.row_id in result.index.duplicates[0]
    assert test.row_id in result.index.duplicates[0]


def test_empty_masks_are_no_duplicates_and_have_no_zone(copied: Path, tmp_path: Path) -> None:
    records = records_of(copied)
    for split in ("train", "test"):
        record = next(r for r in records if r.split == split)
        Image.new("L", (64, 64)).save(record.mask_path)
    result = built(copied, tmp_path / "out")
    assert result.index.duplicates == []
    store = DirectoryStore(tmp_path / "out")
    source = RowGroupSource(store, read_index(store).split("test"))
    targets = [
        source.read(group).target(number).targets[0]
        for group in range(len(source))
        for number in range(source.targets()[group])
    ]
    assert [t.zone for t in targets].count(None) == 2
    assert [t.near_center for t in targets].count(None) == 2


def test_the_index_reads_back(root: Path, tmp_path: Path) -> None:
    index = built(root, tmp_path).index
    assert parse_index(index.dumps().encode(), "x") == index


def test_a_dataset_of_an_earlier_version_is_read(root: Path, tmp_path: Path) -> None:
    """It has no split.json, and its dataset.json says nothing of patients."""
    index = built(root, tmp_path).index
    older = replace(index, shared_groups="", split_sha256="")
    new = ("shared_groups", "split_sha256")
    assert parse_index(edited(index, lambda d: [d.pop(name) for name in new]), "x") == older
    assert read_split(DirectoryStore(tmp_path / "nowhere"), older.split_sha256) is None
    assert read_split(DirectoryStore(tmp_path), index.split_sha256) is not None
    (tmp_path / "split.json").write_bytes(b"{}")
    with pytest.raises(DataError, match=r"split\.json: is not the file that dataset\.json"):
        read_split(DirectoryStore(tmp_path), index.split_sha256)


def group(loaded: dict) -> dict:
    """The row groups of the first shard, in the text of ``dataset.json``."""
    return loaded["splits"]["train"]["shards"][0]["row_groups"]


def edited(index: DatasetIndex, change) -> bytes:
    loaded = json.loads(index.dumps())
    change(loaded)
    return json.dumps(loaded).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=9), "format 9, but this version reads formats 1 and 2"),
        (lambda d: d.pop("splits"), "not a description"),
        (lambda d: d["splits"]["train"]["shards"][0].update(name="../../etc/passwd"), "below its"),
        (lambda d: d["splits"]["train"]["shards"][0].update(name="/etc/passwd"), "below its"),
        (lambda d: d["splits"]["train"]["shards"][0]["row_groups"]["rows"].pop(), "completely"),
        (lambda d: d["splits"]["train"]["shards"][0]["row_groups"].pop("checksums"), "checksums"),
        # It is a part of the names of files in a cache.
        (lambda d: d["splits"]["train"]["shards"][0].update(sha256="../" * 20), "no SHA-256"),
        (lambda d: d["splits"]["train"]["shards"][0].update(sha256="/" + "0" * 63), "no SHA-256"),
        (lambda d: d["splits"]["train"]["shards"][0].update(sha256=5), "not a description"),
        (lambda d: d["splits"]["train"]["shards"][0].update(size=9), "end before its row groups"),
        (lambda d: group(d)["lengths"].__setitem__(0, 10**15), "end before its row groups"),
        (lambda d: group(d)["offsets"].__setitem__(0, -1), "described by numbers"),
        (lambda d: group(d)["checksums"].__setitem__(0, 5), "checksums of row groups must be text"),
    ],
)
def test_a_wrong_index_is_one_line(root: Path, tmp_path: Path, change, message: str) -> None:
    index = built(root, tmp_path).index
    with pytest.raises(DataError, match=message) as raised:
        parse_index(edited(index, change), "here/dataset.json")
    assert str(raised.value).startswith("here/dataset.json: ")


def test_a_folder_without_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json: no such file; a dataset is made by"):
        read_index(DirectoryStore(tmp_path))


def test_a_store_that_fails_leaves_no_index(root: Path, tmp_path: Path, monkeypatch) -> None:
    really = DirectoryStore.write_file

    def failing(self, name: str, source: Path) -> None:
        if "val-" in name:
            raise StorageError(f"{name}: no space left on device")
        really(self, name, source)

    monkeypatch.setattr(DirectoryStore, "write_file", failing)
    with pytest.raises(StorageError, match="no space left"):
        built(root, tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    monkeypatch.setattr(DirectoryStore, "write_file", really)
    assert 0 < built(root, tmp_path).written < 6


# Masks that show several classes


CLASSES = parse_classes("1:tumor,2:cyst,3:")


def class_root(root: Path, *rows: tuple[str, str]) -> Path:
    """One image with a mask of two classes, and rows of question and answer about it."""
    mask = np.zeros((32, 32), np.uint8)
    mask[2:8, 20:30], mask[20:30, 3:9], mask[14:17, 14:17] = 1, 2, 3
    root.mkdir()
    Image.fromarray(mask + 20).save(root / "a.png")
    Image.fromarray(mask).save(root / "m.png")
    (root / "annotations").mkdir()
    lines = [f"a.png,m.png,{question},{answer},train" for question, answer in rows]
    text = "\n".join(["image_path,mask_path,question,answer,split", *lines])
    (root / "annotations" / "a.csv").write_text(text)
    return root


def test_each_row_has_the_class_that_its_question_names(tmp_path: Path) -> None:
    root = class_root(
        tmp_path / "root",
        ("Where is the tumor?", "Away from the cyst."),
        ("Where are CYSTS?", "Bottom left."),
        ("Where is it?", "The cyst is at the bottom left."),
    )
    arguments = ["build", "--data_root", str(root), "--val_fraction", "0", "--num_workers", "1"]
    assert main([*arguments, "--output", str(tmp_path / "refused")]) == 2
    output = tmp_path / "dataset"
    assert main([*arguments, "--output", str(output), "--classes", "1:tumor,2:cyst,3:"]) == 0
    store = DirectoryStore(output)
    image = RowGroupSource(store, read_index(store).split("train")).read(0).image(0)
    zones = ["top right", "bottom left", "bottom left"]
    assert [target.zone for target in image.targets] == zones
    masks = [decode_mask(target.mask, "m") for target in image.targets]
    assert [position_of(mask).zone for mask in masks] == zones
    assert [int(mask.sum()) for mask in masks] == [60, 60, 60]
    assert check(store, 1, False).errors == 0


def test_other_classes_make_another_dataset(tmp_path: Path, capsys) -> None:
    root = class_root(tmp_path / "root", ("Where is the tumor?", "Top right."))
    arguments = ["build", "--data_root", str(root), "--val_fraction", "0"]
    arguments += ["--output", str(tmp_path / "out"), "--classes"]
    assert main([*arguments, "1:tumor,2:,3:"]) == 0
    assert main([*arguments, "1:tumor,2:,3:"]) == 0
    assert main([*arguments, "2:tumor,1:,3:"]) == 2
    assert "was built from other files or with other settings" in capsys.readouterr().err


def test_a_row_that_names_no_class_or_several_is_a_bad_row(tmp_path: Path) -> None:
    root = class_root(
        tmp_path / "root",
        ("Where is the tumor?", "Top right."),
        ("Where is it?", "Top right."),
        ("Where are the tumor and the cyst?", "Everywhere."),
    )
    records = records_of(root)
    chosen, bad = choose_classes(records, CLASSES, "skip")
    assert [record.mask_class for record in chosen] == [CLASSES[0]]
    assert [row.partition(": ")[0] for row in bad] == ["a.csv:3", "a.csv:4"]
    with pytest.raises(DataError, match=r"^a\.csv:3: neither .* --classes \(tumor, cyst\)"):
        choose_classes(records, CLASSES, "error")
    with pytest.raises(DataError, match=r"no usable row, the first of 2 bad ones: a\.csv:3"):
        choose_classes(records[1:], CLASSES, "skip")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Where is the cyst wall?", "cyst wall"),
        ("Where is the cyst?", "cyst"),
        ("Where are cyst-walls?", "cyst wall"),
        ("Which cyst has a cyst wall?", None),
        ("Is it encysted?", None),
    ],
)
def test_names_of_classes_are_whole_words(text: str, name: str | None) -> None:
    found = class_named(parse_classes("1:cyst,2:cyst wall"), text)
    assert (found.name if found else None) == name
