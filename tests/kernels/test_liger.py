"""``--use_liger_kernel`` with the real kernels, which Triton interprets, so without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import patience
from tests.unavailable import unavailable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRITON = "triton==3.9.0"
"""The project does not need it by itself: PyTorch for CUDA comes with the version that suits it."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with Liger and Triton, which are not part of the environment for CPUs."""
    folder = tmp_path_factory.mktemp("liger")
    pins = (ROOT / "benchmarks" / "requirements-gpu.txt").read_text(encoding="utf-8").splitlines()
    liger = next(pin for pin in pins if pin.startswith("liger-kernel=="))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", str(folder), liger, TRITON),
        ],
        capture_output=True,
        text=True,
        timeout=patience(600),
        check=False,
    )
    if done.returncode:
        unavailable(f"Liger and Triton cannot be installed: {done.stderr[-500:]}")
    yield folder
    # A gigabyte, which pytest would keep for three more runs.
    shutil.rmtree(folder)


def test_it_computes_what_is_computed_without(installed: Path) -> None:
    path = [HERE / "triton_on_cpu", installed, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", HERE / "liger_on_cpu.py"],
        cwd=ROOT,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
        },
        capture_output=True,
        text=True,
        timeout=patience(900),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "5 passed" in done.stdout
