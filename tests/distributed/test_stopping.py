"""Asked to end, a run finishes its step, saves and says so, whatever started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.live_run import (
    GO_ON_LATER,
    assert_saved,
    ranks,
    start,
    wait_for_lines,
    wait_for_the_end_of,
)
from tests.patience import patience

pytestmark = pytest.mark.distributed


LONG = ("--max_steps", "100000", "--num_workers", "2")


def signal_one(process: subprocess.Popen[str], save_dir: Path, number: signal.Signals) -> None:
    os.kill(ranks(process)[-1], number)


def signal_the_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """As a terminal, ``timeout`` and ``kill -- -GROUP`` do: workers of the loader get it, too."""
    (rank,) = ranks(process)
    workers = [int(n) for t in Path(f"/proc/{rank}/task").glob("*/children")
               for n in t.read_text().split()]  # fmt: skip
    assert workers
    for one in (*workers, rank):
        os.kill(one, number)


ASKED_BY: dict[str, tuple[str, Callable[[subprocess.Popen[str], Path], None]]] = {
    "python-SIGTERM": ("SIGTERM", lambda p, d: signal_the_group(p, signal.SIGTERM)),
    "python-SIGHUP": ("SIGHUP", lambda p, d: p.send_signal(signal.SIGHUP)),
    "python-SIGUSR1": ("SIGUSR1", lambda p, d: p.send_signal(signal.SIGUSR1)),
    "torchrun-SIGUSR1": ("SIGUSR1", lambda p, d: signal_one(p, d, signal.SIGUSR1)),
    "deepspeed-SIGTERM": ("SIGTERM", lambda p, d: signal_one(p, d, signal.SIGTERM)),
    "deepspeed-file": ("STOP", lambda p, d: (d / "STOP").touch()),
    "deepspeed-killed": ("the end of its launcher", lambda p, d: kill_launcher(p)),
}

AFRESH = ("torchrun-SIGUSR1", "deepspeed-killed")
"""Where it counts who a process's parent is, or how a launcher passes on what it is sent."""


def kill_launcher(process: subprocess.Popen[str]) -> None:
    """The launcher of this machine dies at once; its processes stay."""
    (parent,) = {Path(f"/proc/{rank}/stat").read_text().split()[3] for rank in ranks(process)}
    os.kill(int(parent), signal.SIGKILL)


@pytest.mark.parametrize("case", ASKED_BY)
def test_it_saves_and_can_go_on(small, tmp_path: Path, case: str) -> None:
    launcher = case.partition("-")[0]
    process = start(small, launcher, tmp_path, *LONG, afresh=case in AFRESH)
    try:
        wait_for_lines(process, tmp_path, 1)
        left = ranks(process)
        reason, ask = ASKED_BY[case]
        ask(process, tmp_path)
        output, _ = process.communicate(timeout=patience(200))
        # Processes whose launcher died end after it.
        wait_for_the_end_of(left)
    finally:
        process.kill()
    assert_saved(tmp_path, reason, output)
    assert not (tmp_path / "STOP").exists()
    if launcher == "python":
        assert process.returncode == GO_ON_LATER
