"""Runs in which a process hangs end, and say which one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from prs_med.train.watchdog import HUNG
from tests.conftest import Small
from tests.distributed.live_run import ranks, start, wait_for_lines, wait_for_the_end_of
from tests.patience import patience
from tests.run_folder import rows

pytestmark = pytest.mark.distributed

LIMIT = 8
LONG = ("--max_steps", "2000", "--log_every", "1", "--hang_timeout", str(LIMIT))


def test_a_process_that_was_stopped_is_named(small, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(small, "torchrun", run, *LONG)
    wait_for_lines(process, run, 3)
    running = ranks(process)
    _, second = running
    os.kill(second, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        running.remove(second)
        wait_for_the_end_of(running)
        assert time.monotonic() - stopped < patience(5 * LIMIT)
    finally:
        os.kill(second, signal.SIGKILL)
    output, _ = process.communicate(timeout=patience(120))
    assert process.returncode != 0
    assert f"hung for {LIMIT} s (--hang_timeout): rank 1 gives no sign" in output
    assert f"exitcode  : {HUNG}" in output
    ranks_of = [json.loads(line) for line in (run / "ranks.jsonl").read_text().splitlines()]
    assert {len(row["data_s"]) for row in ranks_of} == {2}
    assert rows(run)[0]["data_wait_slowest_s"] == max(ranks_of[0]["data_s"])


def test_where_it_stands_is_shown(small, tmp_path: Path) -> None:
    """Reading a file that never comes."""
    data = tmp_path / "data"
    shutil.copytree(small.data, data)
    run = tmp_path / "run"
    here = Small(data, small.llava_med, small.tinysam)
    process = start(here, "python", run, *LONG)
    wait_for_lines(process, run, 2)
    for image in data.rglob("train_images/*.png"):
        image.unlink()
        os.mkfifo(image)
    output, _ = process.communicate(timeout=patience(15 * LIMIT))
    assert process.returncode == HUNG
    assert "rank 0 (" in output
    assert "is waiting for data after step" in output
    assert "in load_image" in output


def test_a_run_that_does_not_hang_is_left_alone(small, tmp_path: Path) -> None:
    process = start(small, "torchrun", tmp_path / "run", "--max_steps", "3", "--hang_timeout", "60")
    output, _ = process.communicate(timeout=patience(200))
    assert process.returncode == 0, output[-3000:]
    assert "hung" not in output
