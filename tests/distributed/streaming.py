"""Runs of stream_consumer.py that are killed and go on with another number of processes."""

from __future__ import annotations

import json
import random
import subprocess
import time
from itertools import islice
from pathlib import Path

from prs_med.data.dataset.index import read_index
from prs_med.data.order import Rank
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.training_stream import TrainingStream
from prs_med.storage.location import open_store
from tests.patience import patience
from tests.programs import kill, launchers

ROOT = Path(__file__).resolve().parents[2]
GLOBAL_BATCH = 12


def killed_runs(uri: str, folder: Path, worlds: list[int], seed: int) -> list[list[object]]:
    """The rows of all global batches that were committed, in order, each [position, row].

    Each run is killed with SIGKILL in the middle. What counts as committed is what all its
    processes had written down; the next run, of another size, goes on from there.
    """
    rng = random.Random(seed)
    committed: list[list[object]] = []
    python = launchers() / "python"
    for world in worlds:
        first = len(committed) // GLOBAL_BATCH
        running = [
            subprocess.Popen(
                [
                    *(python, "-m", "tests.distributed.stream_consumer"),
                    *(uri, str(folder), str(rank), str(world), str(GLOBAL_BATCH)),
                ],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        logs = [folder / f"{rank}of{world}from{first}.jsonl" for rank in range(world)]
        deadline = time.monotonic() + patience(120)
        while not all(log.exists() and log.stat().st_size for log in logs):
            for process in running:
                assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.15))
        kill(*running)
        for process in running:
            process.stderr.close()
        parts = [complete_lines(log) for log in logs]
        for together in zip(*parts, strict=False):
            assert len({step for step, _ in together}) == 1
            committed += sorted(row for _, rows in together for row in rows)
        state = reference(uri).state(len(committed) // GLOBAL_BATCH)
        (folder / "state.json").write_text(json.dumps(state.dumps()), encoding="utf-8")
    return committed


def complete_lines(log: Path) -> list[tuple[int, list[list[object]]]]:
    text = log.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def reference(uri: str) -> TrainingStream:
    """The stream that the processes go through."""
    store = open_store(uri)
    opened = read_index(store)
    return TrainingStream(
        opened,
        RowGroupSource(store, opened.split("train")),
        seed=5,
        global_batch=GLOBAL_BATCH,
        shuffle_window=6,
        unit="question",
    )


def uninterrupted(uri: str, count: int) -> list[list[object]]:
    """The same rows, read by one process in one go."""
    units = reference(uri).units_of(Rank(0, 1), 0, memory=2**30)
    rows = sorted([unit.position, unit.stored.targets[0].row_id] for unit in islice(units, count))
    units.close()
    return rows
