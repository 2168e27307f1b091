"""A folder in which the commands of the documents can be run as they stand there.

Data and weights are small ones under the names of the real ones; the hub id of LLaVA-Med is a
folder of that name, and ``s3://bucket`` a bucket on a real S3 server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.conftest import Small
from tests.distributed.moving import make_workplace
from tests.documents import ROOT, yaml_block
from tests.patience import patience
from tests.ports import free_port
from tests.programs import launchers
from tests.unit.scan_files import nifti

LLAVA_MED = "microsoft/llava-med-v1.5-mistral-7b"
SHORT = "--max_steps 1 --log_every 1 --num_workers 0 --image_size 64 --validation_answers 2"
"""What is appended to every training, so that it takes seconds."""
PLACEHOLDERS = {
    " DIR": f" {LLAVA_MED}",
    " FILE": " weights/tinysam_42.3.pth",
    "--data URI": "--data s3://bucket/posmed",
    "--checkpoint_uri URI": "--checkpoint_uri s3://bucket/checked",
    "/local/cache": "cache",
}
"""Words of the documents that stand for something of the reader's."""
TIMEOUT_S = 800


@dataclass
class Workplace:
    """The folder, and the environment of its commands.

    The first command of each program starts from nothing, as its reader's does; the others are
    forked.
    """

    root: Path
    environment: dict[str, str]
    _started: set[str] = field(default_factory=set)

    def run(self, command: str) -> str:
        """Run a command of a document; it must succeed. What it printed."""
        for pattern, prepare in BEFORE.items():
            if re.search(pattern, command):
                prepare(self.root)
        done = subprocess.run(
            ["bash", "-c", runnable(command)],
            cwd=self.root,
            env={**self.environment, "PATH": f"{self._path(command)}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=patience(TIMEOUT_S),
            check=False,
        )
        assert done.returncode == 0, (
            f"{command}\nended with {done.returncode}. Correct the document; or, if it cannot run "
            f"here, add it to ELSEWHERE with the reason.\n{(done.stdout + done.stderr)[-3000:]}"
        )
        return done.stdout

    def _path(self, command: str) -> Path:
        programs = set(re.findall(r"launch/\w+\.py", command))
        afresh = bool(programs - self._started)
        self._started |= programs
        return launchers(afresh)


def runnable(command: str) -> str:
    """The command with small settings, on one process, and without placeholders."""
    for placeholder, value in PLACEHOLDERS.items():
        command = re.sub(re.escape(placeholder) + r"\b", value, command)
    if "launch/train.py" in command:
        command += f" {SHORT}" if "--max_steps" not in command else f" {SHORT.split(maxsplit=2)[2]}"
        command = command.replace("--max_steps 20", "--max_steps 1")
    if command.startswith("deepspeed "):
        count = 2 if "plan.py" in command else 1
        options = f"--num_gpus {count} --master_port {free_port()} --log_level error"
        command = command.replace("deepspeed ", f"deepspeed {options} ", 1)
    return command


def make_documented_workplace(root: Path, small: Small, s3: dict[str, str]) -> Workplace:
    """Make everything that the documents take for granted.

    Args:
        s3: the environment in which ``s3://bucket`` can be reached.
    """
    make_workplace(root, small)
    for name in ("launch", "ds_configs", "docker", "prs_med", "benchmarks", "tests"):
        (root / name).symlink_to(ROOT / name)
    (root / LLAVA_MED).parent.mkdir()
    (root / LLAVA_MED).symlink_to(small.llava_med)
    (root / "posmed.yaml").write_text(yaml_block(ROOT / "README.md", "posmed.yaml"))
    image = root / "data" / "posmed" / "scan.png"
    shutil.copy(image, root / "scan.png")
    (root / "questions.csv").write_text("image_path,question\nscan.png,Where is the tumor?\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **s3,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    return Workplace(root, environment)


def _folder_of_images(root: Path) -> None:
    shutil.rmtree(root / "scans", ignore_errors=True)
    (root / "scans").mkdir()
    shutil.copy(root / "scan.png", root / "scans" / "one.png")


def _scans_with_labels(root: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("scans", "labels"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    for number, case in enumerate(("p1.nii.gz", "p2.nii.gz", "p3.nii.gz")):
        nifti(root / "scans" / case, draw.normal(-500, 200, (48, 64, 3)), np.eye(4))
        mask = np.zeros((48, 64, 3))
        for depth in (1, 2):
            mask[5 : 12 + depth, 40 : 50 + number, depth] = 1
        nifti(root / "labels" / case, mask, np.eye(4))


def _no_first_run(root: Path) -> None:
    shutil.rmtree(root / "runs" / "first", ignore_errors=True)


def _no_inference(root: Path) -> None:
    shutil.rmtree(root / "runs" / "inference", ignore_errors=True)


def _no_evaluation(root: Path) -> None:
    shutil.rmtree(root / "runs" / "evaluation", ignore_errors=True)


def _no_statistics(root: Path) -> None:
    shutil.rmtree(root / "runs" / "stats", ignore_errors=True)


def _two_evaluations(root: Path) -> None:
    for run in ("first", "second"):
        target = root / "runs" / run / "evaluation"
        shutil.copytree(root / "runs" / "evaluation", target, dirs_exist_ok=True)


def _a_demo(root: Path) -> None:
    demo = root / "runs" / "demo"
    demo.mkdir(exist_ok=True)
    if not (demo / "run").exists():
        (demo / "run").symlink_to(root / "runs" / "first")
        shutil.copytree(root / "data" / "posmed" / "lung_CT", demo / "data" / "phantom_mri")


BEFORE: dict[str, Callable[[Path], None]] = {
    "--images scans/": _folder_of_images,
    "--scans scans": _scans_with_labels,
    "--save_dir runs/first": _no_first_run,
    "--config posmed.yaml": _no_first_run,
    "data.py stats": _no_statistics,
    "eval.py compare": _two_evaluations,
    r"eval.py --(?!.*--output_dir)": _no_evaluation,
    r"infer.py (?!.*--output_dir)": _no_inference,
    "runs/demo/": _a_demo,
}
"""What must be there, or gone, before a command in which these patterns are found."""
