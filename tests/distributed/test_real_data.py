"""Training and evaluation on real images with the real Mistral tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prs_med.model.tiny_encoders import write_tinysam
from prs_med.model.tiny_llava import write_llava_med
from tests.distributed.launcher import launch
from tests.programs import succeed
from tests.run_folder import metrics

pytestmark = pytest.mark.distributed


def test_train_and_evaluate(sample_data: Path, tmp_path: Path) -> None:
    write_llava_med(tmp_path / "llava_med", sample_data / "mistral_tokenizer", seed=0)
    write_tinysam(tmp_path / "tinysam.pth", seed=0)
    done = launch(
        [
            *("launch/train.py", "--deepspeed", "ds_configs/zero2.json"),
            *("--data_root", str(sample_data / "real")),
            *("--vlm_path", str(tmp_path / "llava_med")),
            *("--sam_ckpt", str(tmp_path / "tinysam.pth")),
            *("--save_dir", str(tmp_path / "run"), "--image_size", "128"),
            *("--batch_size", "3", "--max_steps", "20", "--log_every", "1"),
            *("--learning_rate", "5e-3", "--train_projector", "--num_workers", "1"),
        ],
        processes=2,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    losses = metrics(tmp_path / "run", "loss_txt")
    assert losses[-1] < 0.7 * losses[0]
    # The three rows that the CSV files label val, whatever the number of processes.
    assert set(metrics(tmp_path / "run", "val_samples")) == {3.0}
    about = json.loads((tmp_path / "run" / "final" / "model.json").read_text())
    assert "lung_CT" in about["modalities"]

    succeed(
        *("eval", "--checkpoint", tmp_path / "run" / "final"),
        *("--data_root", sample_data / "real", "--split", "test"),
        *("--output_dir", tmp_path / "evaluation", "--max_new_tokens", "8"),
    )
    scores = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert scores["all"]["samples"] == 2
