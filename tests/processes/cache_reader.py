"""Reads through a cache on disk for ever; prints a line after every hundred reads.

cache_reader FOLDER SEED
"""

from __future__ import annotations

import random
import sys
from itertools import count
from pathlib import Path

from prs_med.data.dataset.checksums import checksum
from prs_med.data.stream.disk_cache import DiskCache

if __name__ == "__main__":
    cache = DiskCache(Path(sys.argv[1]), 20_000)
    rng = random.Random(int(sys.argv[2]))
    for reads in count(1):
        key = rng.randrange(60)
        data = random.Random(key).randbytes(1000)
        assert cache.get(str(key), checksum(data), lambda data=data: data) == data
        if reads % 100 == 0:
            print(reads, flush=True)
