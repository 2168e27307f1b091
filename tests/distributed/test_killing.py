"""Training processes that are killed cost the work since the last checkpoint, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.reader import CheckpointReader
from tests.distributed.live_run import ranks, start, wait_for_lines, wait_for_the_end_of
from tests.patience import patience
from tests.run_folder import loss_curve

pytestmark = pytest.mark.distributed

STEPS = 16
SETTINGS = ("--max_steps", str(STEPS), "--log_every", "1", "--save_every_steps", "2")


def kill_one(process: subprocess.Popen[str]) -> None:
    os.kill(random.choice(ranks(process)), signal.SIGKILL)


def kill_all(process: subprocess.Popen[str]) -> None:
    for rank in ranks(process):
        os.kill(rank, signal.SIGKILL)
    process.kill()


KILLS: list[tuple[int, Callable[[subprocess.Popen[str]], None]]] = [
    (5, kill_one),
    (11, kill_all),
]
"""After so many steps, and who."""


def test_killed_again_and_again_it_ends_as_if_undisturbed(small, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(small, "deepspeed", undisturbed, *SETTINGS)
    output, _ = process.communicate(timeout=patience(300))
    assert process.returncode == 0, output[-3000:]
    place = DirectoryPlace(killed / "checkpoints")
    reached = 0
    for attempt, (step, kill) in enumerate(KILLS, start=1):
        process = start(small, "deepspeed", killed, *SETTINGS)
        wait_for_lines(process, killed, step)
        left = ranks(process)
        kill(process)
        process.communicate(timeout=patience(200))
        wait_for_the_end_of(left)
        names = place.checkpoints()
        for name in names:
            CheckpointReader(place, name).verify()
        assert names[-1].attempt == attempt
        assert names[-1].step >= reached
        reached = names[-1].step
    process = start(small, "deepspeed", killed, *SETTINGS)
    output, _ = process.communicate(timeout=patience(300))
    assert process.returncode == 0, output[-3000:]
    assert loss_curve(killed) == loss_curve(undisturbed)
    final = place.checkpoints()[-1]
    assert (final.attempt, final.step) == (len(KILLS) + 1, STEPS)
