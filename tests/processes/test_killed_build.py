"""Builds of a dataset that are killed go on, and end as one that was not."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from prs_med.data.phantoms import write_phantoms
from tests.patience import patience
from tests.programs import kill, start, succeed
from tests.small_dataset import ask_again, files


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of which every image has two questions."""
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(folder, {"train": 40, "val": 8, "test": 5}, size=64, seed=4)
    ask_again(folder, "exactly")
    return folder


def command(root: Path, output: Path) -> list[object]:
    return [
        *("data", "build", "--data_root", root, "--output", output),
        *("--row_group_mb", "0.04", "--shard_mb", "0.12"),
    ]


def test_a_killed_build_goes_on_and_ends_alike(root: Path, tmp_path: Path) -> None:
    whole, output, rng = tmp_path / "whole", tmp_path / "killed", random.Random(1)
    succeed(*command(root, whole))
    for _ in range(4):
        running = start(*command(root, output))
        deadline = time.monotonic() + patience(60)
        finished = len(list(output.glob("_build/*.json")))
        # Killed soon after the next shard is finished: in the middle of the one behind it.
        while (
            running.poll() is None
            and len(list(output.glob("_build/*.json"))) <= finished
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.03))
        kill(running)
        running.stdout.close()
    done = {path: path.stat().st_mtime_ns for path in output.glob("data/*.parquet")}
    reported = {path.stem for path in output.glob("_build/*.json")}
    succeed(*command(root, output))
    for path, changed in done.items():
        if path.name in reported:
            assert path.stat().st_mtime_ns == changed, "a finished shard was written again"
    assert files(output) == files(whole)
    assert {path.name for path in output.iterdir()} == {path.name for path in whole.iterdir()}
    assert not (output / "_build").exists()
