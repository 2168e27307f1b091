"""The whole path on one small machine: make data and a tiny model, train, evaluate, show.

Everything is made here, at random: phantom images of four kinds with lesions, and small networks in
the file layouts of LLaVA-Med and TinySAM. Training starts from nothing, so a few minutes suffice
only because the images are simple.

Example: python launch/demo.py --output_dir runs/demo
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prs_med.checked_settings import CheckedSettings, SettingError, not_negative, setting
from prs_med.programs.program import REPOSITORY, program
from prs_med.settings_io import parse_settings

IMAGES = {"train": 960, "val": 60, "test": 100}
IMAGE_SIZE = 128
BATCH_SIZE = 8
DICE_GOAL = 0.85
ZONE_GOAL = 0.90
TRAINING = {
    "image_size": IMAGE_SIZE,
    "epochs": 7,
    "learning_rate": 3e-3,
    "encoder_learning_rate": 5e-4,
    "decoder_learning_rate": 5e-4,
    "warmup_ratio": 0.05,
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "lora_targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
    "train_projector": "true",
    "num_workers": 0,
}


@dataclass(kw_only=True)
class DemoSettings(CheckedSettings):
    """Demo: where it happens, and whether all of it does"""

    output_dir: str = setting(
        "runs/demo", "Folder for everything; an earlier demo is replaced", path="local"
    )
    s3: str | None = setting(
        None,
        "Where the dataset and copies of the checkpoints go instead: s3://bucket/folder",
        path="any",
    )
    steps: int = setting(
        0,
        "End training after so many steps, to see whether all parts work (0: learn)",
        not_negative,
        "0 or more",
    )


@program
def main(argv: Sequence[str]) -> int:
    """Run the demo; the exit status is that of the first command that fails."""
    settings = parse_settings(DemoSettings, argv, __doc__ or "", "python launch/demo.py")
    output, dataset = Path(settings.output_dir), f"{settings.s3 or settings.output_dir}/dataset"
    data = output / "data"
    if output.exists() and not (data / "annotations").is_dir():
        raise SettingError(f"--output_dir {output} holds something else than a demo")
    shutil.rmtree(output, ignore_errors=True)

    print(f"Making {sum(IMAGES.values())} phantom images and a tiny model in {output}")
    _make(data, output / "weights")
    started = time.monotonic()
    for command in (
        _build(data, dataset),
        _train(output, dataset, settings),
        _evaluate(output, dataset),
    ):
        if status := _show_and_run(command):
            return status
    print(f"It took {time.monotonic() - started:.0f} s.")
    print(f"Look at {output / 'evaluation' / 'report.html'}")
    return 0 if settings.steps else _judge(output / "evaluation" / "metrics.json")


def _make(data: Path, weights: Path) -> None:
    from prs_med.data.phantoms import phantom_texts, write_phantoms
    from prs_med.model.tiny_encoders import write_tinysam
    from prs_med.model.tiny_llava import write_llava_med

    write_phantoms(data, IMAGES, size=IMAGE_SIZE, seed=0)
    write_llava_med(weights / "llava_med", phantom_texts(data), seed=0)
    write_tinysam(weights / "tinysam.pth", seed=0)


def _build(data: Path, dataset: str) -> list[str]:
    return [
        *(sys.executable, "launch/data.py", "build"),
        *("--data_root", str(data), "--output", dataset),
    ]


def _train(output: Path, dataset: str, settings: DemoSettings) -> list[str]:
    launcher, batch = _split_of_the_batch()
    return [
        *("deepspeed", "--log_level", "error", *launcher),
        *("--master_port", str(_free_port()), "launch/train.py"),
        *("--deepspeed", "ds_configs/zero2.json"),
        *("--data", dataset),
        *("--vlm_path", str(output / "weights" / "llava_med")),
        *("--sam_ckpt", str(output / "weights" / "tinysam.pth")),
        *("--save_dir", str(output / "run")),
        *(("--checkpoint_uri", f"{settings.s3}/checkpoints") if settings.s3 else ()),
        *(("--max_steps", str(settings.steps)) if settings.steps else ()),
        *batch,
        *(part for name, value in TRAINING.items() for part in (f"--{name}", str(value))),
    ]


def _free_port() -> int:
    """DeepSpeed's own is the same for all: a demo would fail beside another, or beside a training.

    Drawn, as it is in use only seconds later, from below those that Linux gives to clients.
    """
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SettingError("no TCP port is free on this machine")


def _evaluate(output: Path, dataset: str) -> list[str]:
    return [
        *(sys.executable, "launch/eval.py"),
        *("--checkpoint", str(output / "run" / "best")),
        *("--data", dataset, "--split", "test"),
        *("--output_dir", str(output / "evaluation")),
    ]


def _split_of_the_batch() -> tuple[list[str], list[str]]:
    """Launcher and training arguments: one process per GPU, two on a CPU. Two at most, because
    the demo's few steps suit a global batch of 16."""
    import torch

    processes = min(2, torch.cuda.device_count()) or 2
    return ["--num_gpus", str(processes)], [
        *("--batch_size", str(BATCH_SIZE)),
        *("--gradient_accumulation_steps", str(2 // processes)),
    ]


def _judge(metrics: Path) -> int:
    """Whether the demo learnt what it should; the exit status."""
    result = json.loads(metrics.read_text(encoding="utf-8"))["all"]
    dice = result["segmentation"]["dice"]["mean"]
    zone = result["position"]["zone_accuracy"]["mean"]
    if dice >= DICE_GOAL and zone >= ZONE_GOAL:
        return 0
    print(f"It should reach a Dice of {DICE_GOAL} and a zone accuracy of {ZONE_GOAL}: look why.")
    return 1


def _show_and_run(command: list[str]) -> int:
    import torch

    print("\n$ " + shlex.join("python" if part == sys.executable else part for part in command))
    sys.stdout.flush()
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        # Otherwise every process warns that it found no other device.
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode
