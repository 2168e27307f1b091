"""Every command that docs/moving.md gives, run as it stands there.

Data and weights are small ones under the names of the real ones; what is appended makes training
short. The hub id of LLaVA-Med becomes the folder of a small model.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prs_med.model.tiny_encoders import write_sam_med2d
from tests.distributed.launcher import ROOT, free_port
from tests.unit.released_layout import write_released

pytestmark = pytest.mark.distributed

TASKS = {
    "phantom_mri": "lung_CT",
    "phantom_xray": "prostate",
    "phantom_ultrasound": "head_and_neck",
}
SHORT = ["--max_steps", "1", "--log_every", "1", "--num_workers", "0", "--image_size", "64"]


def commands() -> list[str]:
    text = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [
        line.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


@pytest.fixture(scope="module")
def workplace(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the commands exist."""
    root = tmp_path_factory.mktemp("moving")
    data = root / "data" / "posmed"
    shutil.copytree(small.data, data)
    for old, new in TASKS.items():
        (data / old).rename(data / new)
        csv = data / "annotations" / f"{old}.csv"
        csv.with_name(f"{new}.csv").write_text(csv.read_text().replace(f"{old}/", f"{new}/"))
        csv.unlink()
    shutil.copy(next((data / "lung_CT" / "test_images").iterdir()), data / "scan.png")
    (root / "weights").mkdir()
    shutil.copy(small.tinysam, root / "weights" / "tinysam_42.3.pth")
    write_sam_med2d(root / "weights" / "sam-med2d_b.pth", seed=0)
    write_released(root / "checkpoints" / "llm_seg_20", small)
    return root


def words_of(command: str, small) -> list[str]:
    words = [
        str(small.llava_med) if word == "microsoft/llava-med-v1.5-mistral-7b" else word
        for word in shlex.split(command)
    ]
    words = [
        str(ROOT / word) if word.startswith(("launch/", "ds_configs/")) else word for word in words
    ]
    if any(word.endswith("train.py") for word in words):
        words += SHORT
    if words[0] == "deepspeed":
        processes = words.index("--num_gpus") + 1
        words[processes] = str(min(2, int(words[processes])))
        words[1:1] = ["--master_port", str(free_port()), "--log_level", "error"]
    if words[0] == "torchrun":
        words[1:1] = ["--master_port", str(free_port())]
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


@pytest.mark.parametrize("command", commands())
def test_command(command: str, small, workplace: Path) -> None:
    done = subprocess.run(
        words_of(command, small),
        cwd=workplace,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    made = re.search(r"--(?:save_dir|checkpoint_dir|output_dir) (\S+)", command)
    assert made is not None
    assert any((workplace / made[1]).iterdir())


def test_there_are_commands_of_every_kind() -> None:
    found = "\n".join(commands())
    for program in ("deepspeed", "torchrun", "launch/infer.py", "launch/eval.py", "export.py"):
        assert program in found
