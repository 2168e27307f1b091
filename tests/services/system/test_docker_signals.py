"""A training run in a container saves when the container has to end.

The image's first processes run here as they do there: tini, the entry point, the deepspeed command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.distributed.launcher import ROOT
from tests.distributed.live_run import (
    GO_ON_LATER,
    assert_saved,
    lines,
    program,
    ranks,
    wait_for_lines,
    wait_for_the_end_of,
)
from tests.patience import patience
from tests.ports import free_port
from tests.programs import launchers
from tests.services.packages import install, need

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def tini() -> str:
    need(install(["tini"], ["tini"]), "tini is not installed")
    return "tini"


def start(tini: str, arguments: list[str], afresh: bool = True) -> subprocess.Popen[str]:
    """What the image starts for ``train``; -s is for an init that is not process 1."""
    return subprocess.Popen(
        [tini, "-s", "--", str(ROOT / "docker" / "entrypoint.sh"), "train", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{launchers(afresh)}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PRS_MED_PROCESSES": "2",
            "PRS_MED_PORT": str(free_port()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("running", [True, False], ids=["training", "starting"])
def test_asked_to_end_it_saves_and_says_so(small, tini: str, tmp_path: Path, running: bool) -> None:
    process = start(tini, program(small, tmp_path, "--max_steps", "100000")[1:])
    left = []
    try:
        if running:
            wait_for_lines(process, tmp_path, 1)
            left = ranks(process)
            assert len(left) == 2
        else:
            # Python reads its libraries and takes no signals yet.
            deadline = time.monotonic() + patience(60)
            while len(left := ranks(process)) < 2:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert not lines(tmp_path)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=patience(200))
        wait_for_the_end_of(left)
    finally:
        process.kill()
    assert process.returncode == GO_ON_LATER, output[-3000:]
    assert_saved(tmp_path, "SIGUSR1", output)


def test_the_status_of_a_run_is_that_of_the_container(small, tini: str, tmp_path: Path) -> None:
    done = start(tini, program(small, tmp_path, "--max_steps", "1")[1:], afresh=False)
    output, _ = done.communicate(timeout=patience(200))
    assert done.returncode == 0, output[-3000:]
    wrong = start(tini, ["--deepspeed", "ds_configs/no_such_file.json"], afresh=False)
    output, _ = wrong.communicate(timeout=patience(200))
    assert wrong.returncode == 2, output[-3000:]
