"""Which weights a run starts from, trains, leaves alone, averages and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prs_med.model.encoders.registry import load_encoder
from prs_med.model.released import import_released
from prs_med.model.trained_weights import open_trained
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import adapter, metrics
from tests.short_training import WITHOUT_DROPOUT, short
from tests.unit.released_layout import write_released

pytestmark = pytest.mark.distributed

EPOCH = 6
"""Steps: 24 training samples in batches of 4."""
STEPS = EPOCH + 2


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_released(root / "released", small)
    import_released(root / "released", root / "imported", str(small.llava_med))
    common = ("--precision", "fp32", *WITHOUT_DROPOUT, "--learning_rate", "1e-3")

    def job(name: str, *more: str, stage: int = 2) -> Job:
        steps = ("--max_steps", str(STEPS))
        return Job(root / name, short(small.arguments(), *common, *steps, *more, config=stage))

    offload = {stage: f"ds_configs/zero{stage}_offload.json" for stage in (2, 3)}
    still = ("--learning_rate", "1e-12", "--max_steps", "1")
    jobs = []
    for stage in (2, 3):
        jobs += [
            job(f"plain{stage}", stage=stage),
            job(f"average{stage}", "--ema_decay", "0.5", stage=stage),
            job(f"frozen_mllm{stage}", "--freeze_mllm", stage=stage),
            job(f"plain{stage}_offload", "--deepspeed", offload[stage]),
            job(f"average{stage}_offload", "--deepspeed", offload[stage], "--ema_decay", "0.5"),
        ]
    jobs += [
        job("frozen_encoder", "--freeze_encoder"),
        job("frozen_decoder", "--freeze_decoder"),
        job("frozen_both", "--freeze_decoder", "--freeze_encoder", "--max_steps", "1"),
        job("slow_encoder", "--encoder_learning_rate", "1e-12"),
        job("slow_decoder", "--decoder_learning_rate", "1e-12"),
        job("slow_lora", *("--learning_rate", "1e-12", "--encoder_learning_rate", "1e-3"),
            *("--decoder_learning_rate", "1e-3")),
        job("start", "--max_steps", "1", *still),
        job("go_on2", "--init_from", str(root / "plain2" / "final"), *still),
        job("go_on3", "--init_from", str(root / "plain3" / "final"), *still, stage=3),
        job("from_released", "--init_from", str(root / "imported"), *still),
    ]  # fmt: skip
    run_jobs(jobs, 2, root)
    return root


def part(folder: Path, name: str) -> dict[str, torch.Tensor]:
    state = load_file(folder / "segmentation.safetensors")
    return {key: value.float() for key, value in state.items() if key.startswith(name)}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


CONFIGS = ["2", "3", "2_offload", "3_offload"]


@pytest.mark.parametrize("config", CONFIGS)
def test_averaging_does_not_disturb_training(runs: Path, config: str) -> None:
    """The average and the weights change places for validation, in mid-training, and back."""
    plain, average = runs / f"plain{config}", runs / f"average{config}"
    assert metrics(average, "loss") == metrics(plain, "loss")
    assert len(metrics(average, "val_dice")) == 2
    assert metrics(average, "val_loss_seg") != metrics(plain, "val_loss_seg")


@pytest.mark.parametrize("config", CONFIGS)
def test_the_average_is_kept(runs: Path, config: str) -> None:
    """It lies between start and end; tests/distributed/test_equality.py compares its values."""
    plain, average = (runs / f"{name}{config}" / "final" for name in ("plain", "average"))
    start = runs / "start" / "final"
    for read in (lambda f: adapter(f), lambda f: part(f, "mask_decoder")):
        moved = largest_difference(read(start), read(plain))
        behind = largest_difference(read(average), read(plain))
        assert 0.01 * moved < behind < 0.5 * moved


@pytest.mark.parametrize("stage", [2, 3])
def test_a_frozen_language_model_stays(runs: Path, stage: int) -> None:
    run = runs / f"frozen_mllm{stage}"
    kept = adapter(run / "final")
    assert all(not value.any() for name, value in kept.items() if "lora_B" in name)
    assert kept.keys() == adapter(runs / "plain2" / "final").keys()
    start = runs / "start" / "final"
    assert largest_difference(part(run / "final", "mask_decoder"), part(start, "mask_decoder")) > 0
    assert set(metrics(run, "grad_norm_mllm")) == {0.0}
    assert metrics(run, "loss_seg")[-1] < metrics(run, "loss_seg")[0]


def test_frozen_stages_agree(runs: Path) -> None:
    found = [metrics(runs / f"frozen_mllm{stage}", "loss") for stage in (2, 3)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def published_encoder(small) -> dict[str, torch.Tensor]:
    encoder = load_encoder("tinysam", str(small.tinysam))
    return {f"image_encoder.{n}": t.float() for n, t in encoder.state_dict().items()}


def test_frozen_parts_of_the_segmentation_side_stay(small, runs: Path) -> None:
    start, encoder = runs / "start" / "final", published_encoder(small)
    for name in ("frozen_encoder", "frozen_both"):
        assert largest_difference(part(runs / name / "final", "image_encoder"), encoder) == 0
    for name in ("frozen_decoder", "frozen_both"):
        kept = part(runs / name / "final", "mask_decoder")
        assert largest_difference(kept, part(start, "mask_decoder")) < 1e-9
    moved = part(runs / "frozen_decoder" / "final", "image_encoder")
    assert largest_difference(moved, encoder) > 1e-4
    moved = part(runs / "frozen_both" / "final", "cls")
    assert largest_difference(moved, part(start, "cls")) > 1e-4


@pytest.mark.parametrize("slow", ["encoder", "decoder", "lora"])
def test_each_part_has_its_learning_rate(runs: Path, slow: str) -> None:
    final, start = runs / f"slow_{slow}" / "final", runs / "start" / "final"
    moved = {
        "encoder": largest_difference(part(final, "image_encoder"), part(start, "image_encoder")),
        "decoder": largest_difference(part(final, "mask_decoder"), part(start, "mask_decoder")),
        "lora": largest_difference(adapter(final), adapter(start)),
    }
    for name, distance in moved.items():
        assert (distance < 1e-9) if name == slow else (distance > 1e-4), name


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_goes_on_from_trained_weights(runs: Path, stage: int) -> None:
    before, after = runs / f"plain{stage}" / "final", runs / f"go_on{stage}" / "final"
    assert largest_difference(adapter(before), adapter(after)) < 1e-6
    assert largest_difference(part(before, ""), part(after, "")) < 1e-6
    assert open_trained(before).modalities == open_trained(after).modalities
    scores = [metrics(run.parent, "val_dice")[-1] for run in (before, after)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_run_goes_on_from_a_released_checkpoint(runs: Path) -> None:
    before, after = runs / "imported", runs / "from_released" / "final"
    assert largest_difference(adapter(before), adapter(after)) < 1e-6
    for name in ("image_encoder", "mask_decoder"):
        assert largest_difference(part(before, name), part(after, name)) < 1e-6
    trained = open_trained(after)
    assert trained.settings.prompt_tokens == "all"
    # The released classes first, so that the head's rows keep their meaning; then the new ones.
    known = open_trained(before).modalities
    assert trained.modalities[: len(known)] == known
    assert len(trained.modalities) == len(known) + 4
    old, new = part(before, "cls")["cls.2.weight"], part(after, "cls")["cls.2.weight"]
    assert (new[: len(known)] - old).abs().max() < 1e-6
    assert new.shape == (len(known) + 4, 256)
