"""A process that goes through a training stream and writes down what it gets, until it is killed.

Each line is one global batch's part: step, and the rows of each unit with its position. The step is
written only after its line is on disk, as a checkpoint would be.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

from prs_med.data.dataset.index import read_index
from prs_med.data.order import Rank
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.training_stream import StreamState, TrainingStream
from prs_med.storage.location import open_store


def main(uri: str, folder: Path, rank: Rank, global_batch: int) -> None:
    """Go on from the state in ``folder``, one that any number of processes may have left."""
    store = open_store(uri)
    opened = read_index(store)
    stream = TrainingStream(
        opened,
        RowGroupSource(store, opened.split("train")),
        seed=5,
        global_batch=global_batch,
        shuffle_window=6,
        unit="question",
    )
    saved = folder / "state.json"
    state = (
        StreamState.parse(json.loads(saved.read_text(encoding="utf-8")))
        if saved.exists()
        else stream.state(0)
    )
    first = stream.steps_of(state)
    units = stream.units_of(rank, first, memory=2**20)
    with (folder / f"{rank.index}of{rank.world}from{first}.jsonl").open("a") as log:
        step = first
        while True:
            part = islice(units, global_batch // rank.world)
            rows = [[unit.position, unit.stored.targets[0].row_id] for unit in part]
            log.write(json.dumps([step, rows]) + "\n")
            log.flush()
            os.fsync(log.fileno())
            step += 1


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Rank(int(sys.argv[3]), int(sys.argv[4])), int(sys.argv[5]))
