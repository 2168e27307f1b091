"""The demo's commands work; what it learns is for whoever runs it in full."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from prs_med.programs import demo
from tests.programs import launchers, run

pytestmark = pytest.mark.distributed


def run_demo(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it for two steps, in ``output``."""
    arguments = ("--output_dir", output, "--steps", "2", *options)
    return run("demo", *arguments, PATH=f"{launchers()}:{os.environ['PATH']}")


def test_the_first_steps_of_the_demo(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "demo" / "evaluation" / "metrics.json").read_text())
    assert metrics["all"]["samples"] == 100
    assert (tmp_path / "demo" / "evaluation" / "report.html").exists()
    assert list((tmp_path / "demo" / "run" / "checkpoints").glob("step-*"))


def test_demos_beside_each_other_do_not_meet(tmp_path: Path) -> None:
    options = demo.DemoSettings()
    commands = [demo._train(tmp_path, "dataset", options) for _ in range(2)]
    ports = {command[command.index("--master_port") + 1] for command in commands}
    assert len(ports) == 2
    assert "29500" not in ports


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run_demo(tmp_path)
    assert done.returncode == 2
    assert "holds something else than a demo" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
