"""Row groups come out alike from a folder, a store of requests, a cache and the first format."""

from __future__ import annotations

import json
import shutil
import weakref
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from prs_med.data.dataset.check import check
from prs_med.data.dataset.index import read_index
from prs_med.data.dataset.places import KEY
from prs_med.data.dataset.row_groups import read_footer, read_row_group
from prs_med.data.dataset.shard_writer import _describe
from prs_med.data.phantoms import write_phantoms
from prs_med.data.records import DataError
from prs_med.data.stream.disk_cache import DiskCache
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import Store
from tests.small_dataset import build_small


class FarStore(DirectoryStore):
    """A folder of which every read is a request, as on S3."""

    def open(self, name: str) -> None:
        return None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_phantoms(folder / "root", {"train": 40, "val": 8}, size=64, seed=4)
    build_small(folder / "root", DirectoryStore(folder / "set"), 40_000, 120_000)
    return folder / "set"


def contents(store: Store, cache: DiskCache | None = None) -> list[Any]:
    """All that a training split holds, as training reads it."""
    source = RowGroupSource(store, read_index(store).split("train"), cache)
    groups = [source.read(number) for number in range(len(source))]
    return [
        (image.image, image.where, image.modality, image.targets)
        for group in groups
        for image in (group.image(row) for row in range(group.rows))
    ]


def in_format_1(dataset: Path, folder: Path) -> Path:
    """The dataset as it was written before there were places and XXH3."""
    shutil.copytree(dataset, folder)
    loaded = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    loaded["format"] = 1
    for split in loaded["splits"].values():
        split["shards"] = [first_format_of(folder / s["name"], s) for s in split["shards"]]
    (folder / "dataset.json").write_text(json.dumps(loaded), encoding="utf-8")
    return folder


def first_format_of(path: Path, shard: dict[str, Any]) -> dict[str, Any]:
    """Write a shard again without places; its description in format 1."""
    file = pq.ParquetFile(path)
    metadata = {k: v for k, v in file.schema_arrow.metadata.items() if k != KEY.encode()}
    tables = [
        file.read_row_group(number).replace_schema_metadata(metadata)
        for number in range(file.num_row_groups)
    ]
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    groups = shard["row_groups"]
    written = list(zip(groups["rows"], groups["targets"], strict=True))
    described = asdict(_describe(path, shard["name"], written))
    data = path.read_bytes()
    groups = described["row_groups"]
    del groups["checksums"], described["footer"]["checksum"]
    groups["crc32"] = [
        zlib.crc32(data[start : start + length])
        for start, length in zip(groups["offsets"], groups["lengths"], strict=True)
    ]
    described["footer"]["crc32"] = zlib.crc32(data[described["footer"]["offset"] :])
    return described


def test_all_ways_of_reading_give_the_same(dataset: Path, tmp_path: Path) -> None:
    expected = contents(DirectoryStore(dataset))
    assert len(expected) == 40
    assert contents(FarStore(dataset)) == expected
    for _ in range(2):
        assert contents(DirectoryStore(dataset), DiskCache(tmp_path / "c", 2**30)) == expected


def test_the_first_format_is_still_read_and_checked(dataset: Path, tmp_path: Path) -> None:
    old = in_format_1(dataset, tmp_path / "set")
    shard = read_index(DirectoryStore(old)).split("train").shards[0]
    assert read_footer(DirectoryStore(old), shard).places(0) is None
    assert shard.row_groups.checksums[0].startswith("crc32:")

    def rows(found: list[Any]) -> list[Any]:
        return [(image, *rest) for image, _, *rest in found]

    expected = rows(contents(DirectoryStore(dataset)))
    assert rows(contents(DirectoryStore(old))) == expected
    for _ in range(2):
        assert rows(contents(DirectoryStore(old), DiskCache(tmp_path / "c", 2**30))) == expected
    assert check(DirectoryStore(old), 2, show_progress=False).errors == 0
    path = old / shard.name
    data = bytearray(path.read_bytes())
    data[shard.row_groups.offsets[1] + 2000] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"row group 1: the checksum is wrong each of 3 times"):
        contents(DirectoryStore(old))


def test_check_compares_the_places_with_the_columns(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one row group whose places are exchanged: each has its right checksum."""
    from prs_med.data.dataset import shard_footer

    class Exchanged(shard_footer.ShardPlaces):
        def row_group(self, number: int) -> Any:
            found = super().row_group(number)
            for numbers in (found.images._starts, found.images._lengths, found.images._digests):
                numbers.reverse()
            return found

    assert check(DirectoryStore(dataset), 2, show_progress=False).errors == 0
    monkeypatch.setattr(shard_footer, "ShardPlaces", Exchanged)
    findings = check(DirectoryStore(dataset), 2, show_progress=False)
    train = read_index(DirectoryStore(dataset)).split("train")
    rows = [number for shard in train.shards for number in shard.row_groups.rows]
    wrong = [f for f in findings.found if f.kind == "shard" and f.split == "train"]
    assert len(wrong) == sum(number > 1 for number in rows) > 1
    assert all("places of images and masks in the footer are wrong" in f.message for f in wrong)


def test_a_shard_is_open_only_while_its_row_groups_are_in_use(dataset: Path) -> None:
    store = DirectoryStore(dataset)
    source = RowGroupSource(store, read_index(store).split("train"))
    group = source.read(0)
    assert len(source._files) == 1
    read = group.image(0).read_image
    del group
    assert len(read()) > 0
    del read
    assert len(source._files) == 0


def test_a_footer_goes_with_its_last_user(dataset: Path) -> None:
    store = DirectoryStore(dataset)
    shard = read_index(store).split("train").shards[0]
    footer = read_footer(store, shard)
    assert read_row_group(store, shard, 0, footer).rows
    gone = weakref.ref(footer)
    del footer
    assert gone() is None
