"""Training runs that are disturbed while they run, started by any launcher as users do."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.fork_server.programs import process_of
from tests.patience import patience
from tests.ports import free_port
from tests.programs import ROOT, environment, launchers
from tests.run_folder import newest_checkpoint
from tests.short_training import short

GO_ON_LATER = 75
"""Exit status of a run that was asked to end."""

_OPTIONS = {
    "python": [],
    "torchrun": ["--nproc_per_node", "2", "--master_port", "PORT"],
    "deepspeed": ["--log_level", "error", "--num_gpus", "2", "--master_port", "PORT"],
}
_OF_LAUNCHERS = {b"-m", b"--num_gpus", b"--nproc_per_node"}


def program(small, save_dir: Path, *more: str) -> list[str]:
    """The training program with its arguments, for any launcher."""
    settings = short(small.arguments(), "--save_dir", str(save_dir), "--resume", "auto", *more)
    return ["launch/train.py", *settings]


def start(
    small, launcher: str, save_dir: Path, *more: str, afresh: bool = False
) -> subprocess.Popen[str]:
    """Start a run, or go on with it.

    Args:
        afresh: with interpreters that start from nothing; see ``tests.fork_server``.
    """
    options = [part if part != "PORT" else str(free_port()) for part in _OPTIONS[launcher]]
    return subprocess.Popen(
        [str(launchers(afresh) / launcher), *options, *program(small, save_dir, *more)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(save_dir: Path) -> int:
    """How many lines the metrics of a run have."""
    metrics = save_dir / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], save_dir: Path, count: int) -> None:
    """Until the metrics of the run have so many lines."""
    deadline = time.monotonic() + patience(200)
    while lines(save_dir) < count:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "training does not go on"
        time.sleep(0.02)


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """Processes below the launcher, or the process itself, that run the training program, in the
    order of their ranks. Workers that they have forked look alike, and are none."""
    found: list[tuple[int, int]] = []
    todo = [process.pid]
    while todo:
        started = todo.pop()
        parent = process_of(started)
        # Processes end while they are looked at.
        with suppress(OSError):
            command = Path(f"/proc/{started}/cmdline").read_bytes().split(b"\0")
            if b"launch/train.py" in command and not _OF_LAUNCHERS & {*command}:
                found.append((_rank(started), parent))
                continue
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                todo += map(int, task.read_text().split())
    return [number for _, number in sorted(found)]


def _rank(process: int) -> int:
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return int(dict(v.partition(b"=")[::2] for v in variables).get(b"RANK", b"0"))


def wait_for_the_end_of(processes: list[int]) -> None:
    """Until none of them is left."""
    deadline = time.monotonic() + patience(100)
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)


def assert_saved(save_dir: Path, asked_by: str, output: str) -> None:
    """Make sure that a run says who asked it to end, and has a checkpoint of its last step."""
    status = json.loads((save_dir / "status.json").read_text())
    assert status["state"] == "stopped", output[-3000:]
    assert status["reason"].endswith(asked_by)
    assert newest_checkpoint(save_dir).name.step == status["step"]
