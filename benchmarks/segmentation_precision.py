"""How well masks become when the segmentation side computes in bf16 instead of fp32.

    python benchmarks/segmentation_precision.py

Trains the demo's tiny model on the demo's phantoms, with the demo's settings but fewer epochs, once
in each precision for each seed, and prints the Dice of the validation split after each epoch. On a
GPU, TF32 is compared too. On a CPU each training is one process on one core, two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from prs_med.programs.demo import BATCH_SIZE, TRAINING  # noqa: E402

FIRST_PORT = 29660


@dataclass(frozen=True)
class Training:
    """One to compare."""

    seed: int
    precision: str
    epochs: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.precision}-{self.seed}"


def main() -> None:
    """Print the table."""
    options = parser().parse_args()
    on_gpu = torch.cuda.is_available()
    precisions = ("fp32", "tf32", "bf16") if on_gpu else ("fp32", "bf16")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory() as name:
        demo = Path(name) / "demo"
        run([sys.executable, "launch/demo.py", "--steps", "1", "--output_dir", str(demo)])
        trainings = [Training(*each, options.epochs) for each in product(seeds, precisions)]
        with (
            ThreadPoolExecutor(1 if on_gpu else 2) as pool,
            tqdm(total=len(trainings), desc="trainings", unit="training") as bar,
        ):
            futures = [
                pool.submit(train, demo, each, FIRST_PORT + number)
                for number, each in enumerate(trainings)
            ]
            found = {}
            for training, future in zip(trainings, futures, strict=True):
                found[training] = future.result()
                bar.update()
    print(f"| seed | precision | {' | '.join(f'epoch {n + 1}' for n in range(options.epochs))} |")
    print(f"|---|---|{options.epochs * '---|'}")
    for training, scores in found.items():
        cells = " | ".join(f"{score:.3f}" for score in scores)
        print(f"| {training.seed} | {training.precision} | {cells} |")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    made.add_argument("--epochs", type=int, default=3, help="of each training (default: 3)")
    return made


def train(demo: Path, training: Training, port: int) -> list[float]:
    """Dice after each epoch."""
    folder = demo / training.name
    settings = {
        **TRAINING,
        "data": demo / "dataset",
        "vlm_path": demo / "weights" / "llava_med",
        "sam_ckpt": demo / "weights" / "tinysam.pth",
        "save_dir": folder,
        "batch_size": BATCH_SIZE,
        "gradient_accumulation_steps": 2,
        "epochs": training.epochs,
        "seed": training.seed,
        "segmentation_precision": training.precision,
    }
    run(
        [
            *(str(Path(sys.executable).parent / "deepspeed"), "--log_level", "error"),
            *("--num_gpus", "1", "--master_port", str(port)),
            *("launch/train.py", "--deepspeed", "ds_configs/zero2.json"),
            *(word for name, value in settings.items() for word in (f"--{name}", str(value))),
        ]
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = (json.loads(line).get("val_dice") for line in lines)
    return [score for score in found if score is not None]


def run(command: list[str]) -> None:
    """To its end; a failure ends the program with what it said."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    main()
