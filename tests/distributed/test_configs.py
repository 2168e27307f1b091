"""Every shipped DeepSpeed configuration trains with two processes, also on 4-bit weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from prs_med.config import ModelSettings
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import load_llava
from prs_med.model.tiny_encoders import write_sam, write_sam2, write_sam_med2d
from prs_med.model.trained_weights import load_trained
from tests.distributed.launcher import ROOT, Job, run_jobs
from tests.run_folder import metrics
from tests.short_training import WITHOUT_DROPOUT, short

pytestmark = pytest.mark.distributed

ENCODER_WRITERS = {"sam": write_sam, "sam_med2d": write_sam_med2d, "sam2": write_sam2}
CONFIGS = sorted(path.stem for path in (ROOT / "ds_configs").glob("*.json"))


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("configs")
    common = short(
        *(small.arguments(), "--max_steps", "3", *WITHOUT_DROPOUT),
        *("--train_projector", "--gradient_checkpointing", "true"),
    )
    jobs = []
    for config in CONFIGS:
        for bits in ("16bit", "4bit"):
            more = ["--load_4bit"] if bits == "4bit" else []
            arguments = [*common, "--deepspeed", f"ds_configs/{config}.json", *more]
            jobs.append(Job(root / f"{config}_{bits}", arguments))
    eight = [*common, "--deepspeed", "ds_configs/zero2.json", "--load_8bit"]
    partitioned = json.loads((ROOT / "ds_configs" / "zero3.json").read_text())
    # By default, ZeRO-3 leaves parameters as small as these whole on every rank.
    partitioned["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (root / "partitioned.json").write_text(json.dumps(partitioned))
    full = [*common, "--deepspeed", str(root / "partitioned.json"), "--finetune", "full"]
    jobs += [Job(root / "zero2_8bit", eight), Job(root / "zero3_full", full)]
    for family, write in ENCODER_WRITERS.items():
        write(root / f"{family}.pth", seed=0)
        weights = ["--encoder_type", family, "--sam_ckpt", str(root / f"{family}.pth")]
        shape = ["--image_fit", "pad", "--image_size", "96"]
        zero2 = ["--deepspeed", "ds_configs/zero2.json"]
        jobs.append(Job(root / f"encoder_{family}", [*common, *zero2, *weights, *shape]))
    run_jobs(jobs, 2, root)
    return root


def losses(run: Path) -> list[float]:
    return metrics(run, "loss")


@pytest.mark.parametrize("bits", ["16bit", "4bit"])
@pytest.mark.parametrize("config", CONFIGS)
def test_configuration_trains(runs: Path, config: str, bits: str) -> None:
    found = losses(runs / f"{config}_{bits}")
    assert len(found) == 3
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0]


@pytest.mark.parametrize("bits", ["16bit", "4bit"])
def test_all_configurations_agree(runs: Path, bits: str) -> None:
    # bf16 keeps 8 bits of a number; sums in another order differ by about that.
    expected = losses(runs / f"zero2_{bits}")
    for config in CONFIGS:
        assert losses(runs / f"{config}_{bits}") == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("family", ENCODER_WRITERS)
def test_every_encoder_trains_and_loads_again(runs: Path, family: str) -> None:
    run = runs / f"encoder_{family}"
    assert all(map(math.isfinite, losses(run)))
    kept = load_trained(run / "final").segmentation.image_encoder.state_dict()
    start = load_encoder(family, str(runs / f"{family}.pth")).state_dict()
    assert kept.keys() == start.keys()
    unchanged = [name for name in kept if torch.equal(kept[name], start[name])]
    assert unchanged == []


def test_8bit_weights_train(runs: Path) -> None:
    found = losses(runs / "zero2_8bit")
    assert all(map(math.isfinite, found))


def test_full_fine_tuning_saves_a_model_that_loads_again(runs: Path, small) -> None:
    assert all(map(math.isfinite, losses(runs / "zero3_full")))
    tuned = load_trained(runs / "zero3_full" / "final").mllm.llava.state_dict()
    layout = read_layout(str(small.llava_med))
    base = load_llava(layout, ModelSettings()).state_dict()
    assert tuned.keys() == base.keys()
    for name in base:
        if "vision_tower" in name:
            assert torch.equal(tuned[name], base[name]), name
        elif base[name].ndim == 2:
            # Three small steps do not move vectors of ones in bf16.
            assert not torch.equal(tuned[name], base[name]), name
