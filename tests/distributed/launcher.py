"""Starting real DeepSpeed processes from tests."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests.patience import patience
from tests.ports import free_port
from tests.programs import ROOT, environment, launchers

LIMIT_S = 800


@dataclass(frozen=True)
class Job:
    """One training run of a launch, and optionally what is done to its engines.

    ``{rank}`` in its arguments and ``save_dir`` becomes the number of each process.
    """

    save_dir: Path
    arguments: list[str]
    spoil: dict[str, object] = field(default_factory=dict)
    """A gradient to make infinite or NaN; see ``spoil_gradient`` in run_jobs.py."""
    veto_step: int = 0
    """Have the optimizers discard this step, counted from 1."""
    without_step: int = 0
    """Leave this step out, counted from 1: it makes no gradients."""
    swap_masters: bool = False
    """Expect the masters of two parameters that start alike in each other's places."""
    keep_gradients: bool = False
    """Write the first step's gradients to gradients.safetensors in ``save_dir``."""
    stop_after: int = 0
    """Send a signal to rank 0 after so many steps."""
    stop_by: str = "SIGTERM"
    """Its name."""
    check_restored: bool = False
    """Compare the engines with the checkpoint gone on from; writes ``restored`` in ``save_dir``."""
    save_by_deepspeed: bool = False
    """Let DeepSpeed save both engines at the end, to ``deepspeed`` in ``save_dir``."""
    error_file: Path | None = None
    """The run must fail; where its message goes."""


def launch(program: list[str], processes: int, afresh: bool = False) -> subprocess.CompletedProcess:
    """Run a program under the ``deepspeed`` launcher, as users do: on GPUs, or on a CPU without.

    Args:
        afresh: with interpreters that start from nothing; see ``tests.fork_server``.
    """
    if 0 < torch.cuda.device_count() < processes:
        pytest.skip(f"needs {processes} GPUs, or a machine without any")
    command = [
        *(launchers(afresh) / "deepspeed", "--log_level", "error"),
        *("--num_gpus", str(processes), "--master_port", str(free_port())),
        *program,
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(LIMIT_S),
        check=False,
    )


def run_jobs(jobs: list[Job], processes: int, folder: Path, survive: bool = True) -> None:
    """Train several times in the same processes (starting Python costs more than the training).

    Args:
        survive: whether these processes end by themselves; else a job kills them.
    """
    listing = folder / f"jobs{processes}.json"
    # Unless a job asks for them: test_validation.py tests answers, and elsewhere they cost time.
    usual = ["--validation_answers", "0"]
    listing.write_text(
        json.dumps(
            [
                {
                    "arguments": [*usual, *job.arguments, "--save_dir", str(job.save_dir)],
                    "spoil": job.spoil,
                    "gradients": str(job.save_dir / "gradients.safetensors")
                    if job.keep_gradients
                    else "",
                    "veto_step": job.veto_step,
                    "without_step": job.without_step,
                    "swap_masters": job.swap_masters,
                    "stop_after": job.stop_after,
                    "stop_by": job.stop_by,
                    "check_restored": str(job.save_dir / "restored") if job.check_restored else "",
                    "save_by_deepspeed": str(job.save_dir / "deepspeed")
                    if job.save_by_deepspeed
                    else "",
                    "error_file": str(job.error_file or ""),
                }
                for job in jobs
            ]
        )
    )
    done = launch(["tests/distributed/run_jobs.py", str(listing)], processes)
    assert (done.returncode == 0) == survive, (done.stdout + done.stderr)[-6000:]
