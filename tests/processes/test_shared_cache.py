"""The cache on local disk, shared by processes that are killed."""

from __future__ import annotations

import random
import time
from pathlib import Path

from prs_med.data.dataset.checksums import checksum
from prs_med.data.stream.disk_cache import DiskCache
from tests.programs import kill, start


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


def test_processes_share_it_and_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(0)
    for attempt in range(3):
        readers = [
            start("tests.processes.cache_reader", tmp_path, 10 * attempt + number)
            for number in range(2)
        ]
        for reader in readers:
            # Both are under way, and have made room for new entries.
            for reads in (100, 200, 300):
                assert reader.stdout.readline() == f"{reads}\n"
        time.sleep(rng.uniform(0, 0.05))
        for reader in readers:
            assert reader.poll() is None, reader.stdout.read()
        kill(*readers)
        for reader in readers:
            reader.stdout.close()
    cache = DiskCache(tmp_path, 20_000)
    assert 0 < held(tmp_path) <= 20_000
    for key in range(60):
        content = random.Random(key).randbytes(1000)
        assert cache.get(str(key), checksum(content), lambda content=content: content) == content
    assert held(tmp_path) <= 20_000
