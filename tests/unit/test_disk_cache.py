"""The cache on local disk: never wrong, never over its limit, shared by processes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from prs_med.data.dataset.checksums import checksum
from prs_med.data.stream.disk_cache import DiskCache


def content(key: int) -> bytes:
    return random.Random(key).randbytes(1000)


class Origin:
    """Where the cache gets what it does not have."""

    def __init__(self, cache: DiskCache) -> None:
        self._cache = cache
        self.reads: list[int] = []

    def get(self, key: int) -> bytes:
        def read() -> bytes:
            self.reads.append(key)
            return content(key)

        return self._cache.get(str(key), checksum(content(key)), read)


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


def test_what_was_read_is_kept_also_for_another_process(tmp_path: Path) -> None:
    first = Origin(DiskCache(tmp_path, 10_000))
    assert [first.get(key) for key in (1, 2, 1)] == [content(key) for key in (1, 2, 1)]
    assert first.reads == [1, 2]
    second = Origin(DiskCache(tmp_path, 10_000))
    assert second.get(2) == content(2)
    assert second.reads == []


def test_the_limit_holds_and_the_oldest_goes_first(tmp_path: Path) -> None:
    origin = Origin(DiskCache(tmp_path, 5_000))
    for key in range(20):
        origin.get(key)
        origin.get(0)  # used again and again
        assert held(tmp_path) <= 5_000
        time.sleep(0.002)
    assert origin.reads == list(range(20))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_entry_is_never_served(tmp_path: Path, damage: str) -> None:
    origin = Origin(DiskCache(tmp_path, 10_000))
    origin.get(7)
    (entry,) = tmp_path.glob("*.part")
    data = bytearray(entry.read_bytes())
    data[500] ^= 1
    entry.write_bytes({"flip": bytes(data), "truncate": data[:400], "empty": b""}[damage])
    assert origin.get(7) == content(7)
    assert origin.reads == [7, 7]
    assert origin.get(7) == content(7)
    assert origin.reads == [7, 7]


def test_an_entry_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    origin = Origin(DiskCache(tmp_path, 500))
    assert origin.get(1) == content(1)
    assert held(tmp_path) == 0


def test_a_smaller_limit_at_the_next_start_makes_room(tmp_path: Path) -> None:
    origin = Origin(DiskCache(tmp_path, 50_000))
    for key in range(30):
        origin.get(key)
    DiskCache(tmp_path, 3_000)
    assert held(tmp_path) <= 3_000


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path: Path, caplog) -> None:
    cache = DiskCache(tmp_path / "cache", 10_000)
    origin = Origin(cache)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (tmp_path / "cache").rmdir()
    assert [origin.get(key) for key in (1, 2, 1)] == [content(key) for key in (1, 2, 1)]
    assert len(caplog.messages) == 1
    assert "going on without" in caplog.messages[0]
