"""The commands that docs/moving.md gives, to be run as they stand there.

Data and weights are small ones under the names of the real ones; what is appended makes training
short. The hub id of LLaVA-Med becomes the folder of a small model.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from prs_med.model.tiny_encoders import write_sam_med2d
from tests.conftest import Small
from tests.patience import patience
from tests.ports import free_port
from tests.programs import LIMIT_S, ROOT, environment, launchers
from tests.unit.released_layout import write_released

TASKS = {
    "phantom_mri": "lung_CT",
    "phantom_xray": "prostate",
    "phantom_ultrasound": "head_and_neck",
}
SHORT = ["--max_steps", "1", "--log_every", "1", "--num_workers", "0", "--image_size", "64"]
COMPILED = ["--compile_regions", "language_model"]
"""Of what ``--compile_model`` compiles: code for the other regions takes a CPU minutes."""


def commands(on_s3: bool) -> list[str]:
    """Those that need S3, or all others."""
    text = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [
        line.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and on_s3 == ("s3://" in line)
    ]


def make_workplace(root: Path, small: Small) -> None:
    """Make the paths of the commands in ``root``."""
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


def _words_of(command: str, small: Small) -> list[str]:
    words = [
        str(small.llava_med) if word == "microsoft/llava-med-v1.5-mistral-7b" else word
        for word in shlex.split(command)
    ]
    words = [
        str(ROOT / word) if word.startswith(("launch/", "ds_configs/")) else word for word in words
    ]
    if any(word.endswith("train.py") for word in words):
        words += SHORT
    if "--compile_model" in words:
        words += COMPILED
    if words[0] == "deepspeed":
        processes = words.index("--num_gpus") + 1
        words[processes] = str(min(2, int(words[processes])))
        words[1:1] = ["--master_port", str(free_port()), "--log_level", "error"]
    if words[0] == "torchrun":
        words[1:1] = ["--master_port", str(free_port())]
    return [str(launchers() / words[0]), *words[1:]]


def run_command(command: str, small: Small, workplace: Path) -> None:
    """Run a command in the workplace; it must succeed and write what it says."""
    done = subprocess.run(
        _words_of(command, small),
        cwd=workplace,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(LIMIT_S),
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    made = re.search(r"--(?:save_dir|checkpoint_dir|output_dir) (\S+)", command)
    if made is not None:
        assert any((workplace / made[1]).iterdir())
