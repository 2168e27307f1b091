"""What a run may go on from: damaged checkpoints are passed over, those of another run refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.ownership import claim
from prs_med.data.phantoms import phantom_texts
from prs_med.model.tiny_llava import write_llava_med
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import events, loss_curve, newest_checkpoint, newest_folder
from tests.short_training import short

pytestmark = pytest.mark.distributed

STEPS = 4
STOPPED_AT = 3


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_newest(run: Path) -> None:
    flip_a_bit(sorted(newest_folder(run).glob("segmentation-*"))[-1])


def damage_manifest(run: Path) -> None:
    flip_a_bit(newest_folder(run) / "manifest.json")


def truncate_newest(run: Path) -> None:
    path = sorted(newest_folder(run).glob("mllm-*"))[0]
    path.write_bytes(path.read_bytes()[:-5])


def damage_all(run: Path) -> None:
    for shard in (run / "checkpoints").glob("*/mllm-00001-*"):
        flip_a_bit(shard)


def damage_log(run: Path) -> None:
    flip_a_bit(newest_folder(run) / "metrics.jsonl")


def nothing(run: Path) -> None:
    """Leave it as it is."""


FALLBACKS: dict[str, Callable[[Path], None]] = {
    "damaged_shard": damage_newest,
    "damaged_manifest": damage_manifest,
    "truncated_shard": truncate_newest,
}
REFUSALS: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "all_damaged": (damage_all, [], "CheckpointError: none of the 3 checkpoints can be used"),
    "named_and_damaged": (damage_newest, ["--resume", "NEWEST"], "CheckpointError: NEWEST: segm"),
    "no_checkpoint": (nothing, ["--resume", "runs/best"], "SettingError: runs/best: not the name"),
    "other_base": (nothing, ["--vlm_path", "OTHER"], "was trained on another language model"),
    "other_model": (
        nothing,
        ["--lora_rank", "4", "--lora_alpha", "32", "--prompt_template", "llava_med"],
        "was trained with --prompt_template released (here llava_med), --lora_rank 16 (here 4), "
        "--lora_alpha 16 (here 32): must be equal",
    ),
    "other_images": (
        nothing,
        ["--image_size", "96", "--image_fit", "pad", "--prompt_tokens", "all"],
        "--prompt_tokens question (here all), --image_size 64 (here 96), --image_fit stretch (here",
    ),
    "more_trained": (nothing, ["--train_projector"], "--train_projector false (here true)"),
    "less_trained": (nothing, ["--freeze_encoder"], "--freeze_encoder false (here true)"),
    "other_seed": (
        nothing,
        ["--seed", "7"],
        "DataError: the run to go on with has another --seed: 0",
    ),
    "other_batch": (nothing, ["--batch_size", "3"], "x processes): 4 there, 6 here"),
    "other_rows": (nothing, ["--tasks", "phantom_mri"], "has another set of rows"),
}
"""What is done to the run, settings that follow, and what the message says."""


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refusals")
    plain = short(
        *(small.arguments(), "--max_steps", str(STEPS)),
        *("--save_every_steps", "1", "--keep_last", "3"),
    )
    wanted = [*plain, "--resume", "auto"]
    run_jobs(
        [
            Job(root / "whole", wanted),
            Job(root / "stopped", wanted, stop_after=STOPPED_AT),
        ],
        2,
        root,
    )
    jobs = []
    for name, damage in FALLBACKS.items():
        shutil.copytree(root / "stopped", root / name)
        damage(root / name)
        jobs.append(Job(root / name, wanted))
    other = root / "other"
    write_llava_med(other, phantom_texts(small.data), seed=77)
    for name, (damage, more, _) in REFUSALS.items():
        shutil.copytree(root / "stopped", root / name)
        damage(root / name)
        more = [
            text.replace("OTHER", str(other)).replace("NEWEST", str(newest_folder(root / name)))
            for text in more
        ]
        jobs.append(Job(root / name, [*wanted, *more], error_file=root / f"{name}.txt"))
    unshared = root / "unshared_{rank}"
    jobs.append(Job(unshared, wanted, error_file=root / "unshared.txt"))
    for name in ("unasked", "in_use"):
        shutil.copytree(root / "stopped", root / name)
    jobs += going_on(root, plain, wanted, str(other))
    jobs.append(Job(root / "unasked", plain, error_file=root / "unasked.txt"))
    jobs.append(Job(root / "in_use", wanted, error_file=root / "in_use.txt"))
    held = claim(DirectoryPlace(root / "in_use" / "checkpoints").store, "a1b2", 1, print)
    try:
        run_jobs(jobs, 2, root)
    finally:
        held.release()
    return root


def going_on(root: Path, plain: list[str], wanted: list[str], other_base: str) -> list[Job]:
    """From the run that was stopped, in its folder or in others."""
    for name in ("damaged_log", "average_later"):
        shutil.copytree(root / "stopped", root / name)
    damage_log(root / "damaged_log")
    from_there = [*plain, "--resume", str(newest_folder(root / "stopped"))]
    roll_back = [*from_there, "--on_bad_step", "rollback"]
    first_batch = {"side": "segmentation", "micro_batch": 0, "rank": 1}
    refused = [*from_there, "--vlm_path", other_base]
    return [
        Job(root / "damaged_log", wanted),
        Job(root / "average_later", [*wanted, "--ema_decay", "0.9"]),
        Job(root / "elsewhere", from_there),
        Job(root / "rolled_back", roll_back, spoil=first_batch),
        # It ends before it has saved anything, and goes on from there all the same.
        Job(root / "begun", refused, error_file=root / "begun.txt"),
        Job(root / "begun", wanted),
    ]


def test_a_damaged_log_holds_up_nothing(runs: Path) -> None:
    assert loss_curve(runs / "damaged_log") == loss_curve(runs / "whole")


def test_a_moving_average_can_be_switched_on_later(runs: Path) -> None:
    assert loss_curve(runs / "average_later") == loss_curve(runs / "whole")
    newest = newest_checkpoint(runs / "average_later")
    assert newest.kinds("mllm") == {"master", "exp_avg", "exp_avg_sq", "average"}
    assert newest.manifest.state["average_updates"] == STEPS - STOPPED_AT


@pytest.mark.parametrize("name", ["elsewhere", "begun"])
def test_a_run_that_begins_with_another_ones_checkpoint_saves_it_first(
    runs: Path, name: str
) -> None:
    assert loss_curve(runs / name) == loss_curve(runs / "whole")
    names = DirectoryPlace(runs / name / "checkpoints").checkpoints()
    attempt = 2 if name == "begun" else 1
    assert names == [CheckpointName(attempt, STOPPED_AT), CheckpointName(attempt, STEPS)]


def test_it_can_be_rolled_back_before_it_has_made_a_step(runs: Path) -> None:
    (event,) = events(runs / "rolled_back")
    assert (event["step"], event["action"]) == (STEPS, "rollback")
    assert newest_checkpoint(runs / "rolled_back").name.step == STEPS


@pytest.mark.parametrize("name", FALLBACKS)
def test_a_damaged_checkpoint_is_passed_over(runs: Path, name: str) -> None:
    assert loss_curve(runs / name) == loss_curve(runs / "whole")
    names = DirectoryPlace(runs / name / "checkpoints").checkpoints()
    assert names[-2:] == [CheckpointName(2, STOPPED_AT), CheckpointName(2, STEPS)]


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_gone_on_from_is_refused_and_stays(runs: Path, name: str) -> None:
    said = (runs / f"{name}.txt").read_text()
    assert REFUSALS[name][2].replace("NEWEST", str(newest_folder(runs / name))) in said
    assert loss_curve(runs / name) == loss_curve(runs / "stopped")
    names = DirectoryPlace(runs / name / "checkpoints").checkpoints()
    assert names == DirectoryPlace(runs / "stopped" / "checkpoints").checkpoints()


def test_a_run_is_not_gone_on_with_unasked(runs: Path) -> None:
    said = (runs / "unasked.txt").read_text()
    assert said.startswith(f"SettingError: {runs / 'unasked' / 'checkpoints'} already holds a run")
    assert loss_curve(runs / "unasked") == loss_curve(runs / "stopped")


def test_a_second_run_in_the_same_folder_is_refused(runs: Path) -> None:
    said = (runs / "in_use.txt").read_text()
    assert "is saving there; give this run another folder" in said
    assert loss_curve(runs / "in_use") == loss_curve(runs / "stopped")


def test_folders_that_are_not_shared_are_noticed(runs: Path) -> None:
    said = (runs / "unshared.txt").read_text()
    assert "is not the same folder on all machines" in said
