"""What checkpoints on S3 cost process 0 at a number of processes, and what a start costs.

    python benchmarks/commit_scale.py

The code is the product's; the server is a stand-in in memory of which every request, and every page
of 1,000 names, takes a given time, and any number at once. Each other process contributes two
shards. Measured are, by the clock and in requests: a commit, from the last report on; the removal
of an old checkpoint, which follows it; what a start reads of checkpoints (claims, list, the newest
manifest, the scores of all); and the index of a dataset of as many shards as processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prs_med.checkpoint.manifest import (  # noqa: E402
    CheckpointName,
    Group,
    Manifest,
    Parameter,
    Shard,
    StoredFile,
)
from prs_med.checkpoint.ownership import claim, last_attempt  # noqa: E402
from prs_med.checkpoint.reader import CheckpointReader  # noqa: E402
from prs_med.checkpoint.retention import Pruner, Retention  # noqa: E402
from prs_med.checkpoint.s3_place import S3Place  # noqa: E402
from prs_med.checkpoint.saver import Saver  # noqa: E402
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments, Snapshot  # noqa: E402
from prs_med.data.dataset import index  # noqa: E402
from prs_med.storage.s3 import S3Store  # noqa: E402
from prs_med.storage.store import MissingFileError  # noqa: E402

WORLDS = (2, 16, 128, 1024)
GROUPS = ("mllm", "segmentation")
FRAGMENTS = 4
"""Stretches of parameters in a shard."""
PAGE = 1000
"""Names that S3 lists at a time."""


class StandIn:
    """Objects in memory; every request takes ``seconds``."""

    uri = "s3://stand-in"

    def __init__(self, seconds: float) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self._seconds = seconds
        self._lock = threading.Lock()

    def _ask(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1
        time.sleep(self._seconds)

    def where(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._ask("GET")
        end = None if length is None else offset + length
        if name not in self.objects:
            raise MissingFileError(self.where(name))
        return self.objects[name][offset:end]

    def write(self, name: str, data: bytes) -> None:
        self._ask("PUT")
        self.objects[name] = data

    def create(self, name: str, data: bytes) -> bool:
        self._ask("PUT")
        return self.objects.setdefault(name, data) == data

    def write_file(self, name: str, source: Path) -> None:
        self.write(name, source.read_bytes())

    def names(self, prefix: str = "") -> list[str]:
        found = sorted(name for name in list(self.objects) if name.startswith(prefix))
        for _ in range(max(1, -(-len(found) // PAGE))):
            self._ask("LIST")
        return found

    def delete(self, name: str) -> None:
        self._ask("DELETE")
        self.objects.pop(name, None)


@dataclass(frozen=True)
class Cost:
    """Of one thing that process 0 does."""

    seconds: float
    requests: dict[str, int]

    def text(self) -> str:
        """For a terminal."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        return f"{self.seconds:.2f} s ({kinds})"


def measured(server: StandIn, action: Callable[[], object]) -> Cost:
    """What an action costs."""
    server.requests.clear()
    begun = time.monotonic()
    action()
    return Cost(time.monotonic() - begun, dict(server.requests))


def shard(group: str, rank: int, step: int) -> Shard:
    """The description of what a process writes of a group."""
    digest = hashlib.sha256(f"{group} {rank} {step}".encode()).hexdigest()
    file = StoredFile(f"{group}-{rank:05d}-000.safetensors", 1000, digest, [0])
    table = [[number, rank * 10, 10] for number in range(FRAGMENTS)]
    return Shard(file, group, rank, ["master", "exp_avg", "exp_avg_sq"], 100, table)


def report(rank: int, step: int, save: int) -> bytes:
    """The note that a process leaves."""
    shards = [asdict(shard(group, rank, step)) for group in GROUPS]
    return json.dumps({"save": save, "shards": shards, "files": []}).encode()


def finished(server: StandIn, place: S3Place, world: int, step: int) -> None:
    """Put a complete checkpoint of so many processes there."""
    shards = [shard(group, rank, step) for rank in range(world) for group in GROUPS]
    parameters = [Parameter(f"p{number}", [world * 10]) for number in range(FRAGMENTS)]
    manifest = Manifest(
        name=str(CheckpointName(1, step)),
        run="run",
        created="",
        world_size=world,
        groups={group: Group(parameters, step) for group in GROUPS},
        shards=shards,
        files=[],
        state={"scores": {}},
    )
    server.objects.update({f"files/{one.file.sha256}": b"" for one in shards})
    server.objects[f"manifests/{CheckpointName(1, step)}.json"] = manifest.dumps()


def costs(world: int, seconds: float, staging: Path) -> dict[str, Cost]:
    """What process 0 of so many pays for each thing."""
    server = StandIn(seconds)
    place = S3Place(cast(S3Store, server), staging)
    pruner = Pruner(place, Retention(2, "val_dice", higher_is_better=True))
    for step in (1, 2):
        finished(server, place, world, step)
    pruner.scores()
    name = CheckpointName(1, 3)
    for rank in range(1, world):
        server.objects[f"reports/{name}/{rank:05d}.json"] = report(rank, 3, save=1)
        for group in GROUPS:
            server.objects[f"files/{shard(group, rank, 3).file.sha256}"] = b""
    own = {
        group: OwnedFragments(
            [Parameter(f"p{number}", [world * 10]) for number in range(FRAGMENTS)],
            [Fragment(number, 0, 10) for number in range(FRAGMENTS)],
            {kind: np.zeros(FRAGMENTS * 10, np.float32) for kind in ("master", "exp_avg")},
        )
        for group in GROUPS
    }
    saver = Saver(place, 0, world, "run")

    def commit() -> None:
        saver.save(name, Snapshot(own))
        outcome = saver.wait()
        assert outcome is not None
        assert not outcome.error, outcome.error

    def start() -> None:
        last = last_attempt(place.store)
        claim(place.store, "run", last.number if last else 0, print).release()
        CheckpointReader(place, place.checkpoints()[-1])
        Pruner(place, Retention(2, "val_dice", higher_is_better=True)).scores()

    found = {"commit": measured(server, commit), "removal": measured(server, pruner.prune)}
    found["start"] = measured(server, start)
    server.objects[index.NAME] = dataset(world)
    found["dataset index"] = measured(server, lambda: index.read_index(place.store))
    return found


def dataset(shards: int) -> bytes:
    """The index of a dataset of so many shards of 32 row groups."""
    numbers: list[int] = list(range(1, 33))
    one = {
        "name": "",
        "size": 1 << 27,
        "sha256": "0" * 64,
        "row_groups": {
            **dict.fromkeys(("rows", "targets", "offsets", "lengths"), numbers),
            "checksums": ["xxh3:" + "0" * 32] * 32,
        },
        "footer": {"offset": 1, "checksum": "xxh3:" + "0" * 32},
    }
    split: dict[str, Any] = {
        "shards": [{**one, "name": f"data/train-{n:05d}.parquet"} for n in range(shards)],
        "modalities": ["ct"],
        "longest_text": 100,
    }
    whole = {
        "format": index.FORMAT,
        "splits": {"train": split},
        "built_from": "",
        "held_out": "",
        "duplicates": [],
    }
    return json.dumps(whole).encode()


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--ms", type=float, default=10.0, help="of each request (default: 10)")
    settings = parser.parse_args(argv)
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            for what, cost in costs(world, settings.ms / 1000, Path(folder)).items():
                print(f"{world:5,} processes  {what:13}  {cost.text()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
