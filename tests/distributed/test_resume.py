"""A run that ends before its time goes on as if nothing had happened, here or on other hardware."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.reader import CheckpointReader
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import newest_checkpoint, rows, weights
from tests.short_training import WITHOUT_DROPOUT, short

pytestmark = pytest.mark.distributed

STEPS = 5
STOPPED_AT = 3
"""Neither an end of an epoch nor a step to save after."""
SAME_SIZE = {
    "zero2": (2, []),
    "zero3": (3, []),
    "average": (3, ["--ema_decay", "0.9"]),
    "accumulated": (2, ["--batch_size", "1", "--gradient_accumulation_steps", "2"]),
    "zero3_offload": ("3_offload", []),
}
"""Name of the DeepSpeed configuration, and further settings."""
OTHER_SIZES = {
    "one_process_zero3": (1, 3, ["--batch_size", "4"]),
    "one_process_zero2": (1, 2, ["--batch_size", "2", "--gradient_accumulation_steps", "2"]),
    "zero3": (2, 3, []),
    "accumulated": (2, 2, ["--batch_size", "1", "--gradient_accumulation_steps", "2"]),
    "nf4": (2, 2, ["--load_4bit"]),
}


def arguments(small, configuration: int | str, *more: str) -> list[str]:
    return short(
        *(small.arguments(), "--max_steps", str(STEPS), "--log_every", "2"),
        *("--learning_rate", "1e-3", "--save_every_steps", "2", "--train_projector"),
        *("--resume", "auto", *more),
        config=configuration,
    )


SAME_ANYWHERE = [*WITHOUT_DROPOUT, "--precision", "fp32"]
"""For the same numbers in other processes."""


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    two: list[Job] = []
    for name, (configuration, more) in SAME_SIZE.items():
        wanted = arguments(small, configuration, *more)
        two += [
            Job(root / f"{name}_whole", wanted),
            Job(root / f"{name}_resumed", wanted, stop_after=STOPPED_AT),
            Job(root / f"{name}_resumed", wanted, check_restored=not name.startswith("average")),
        ]
    plain = arguments(small, 2, *SAME_ANYWHERE)
    two += [
        Job(root / "plain_whole", plain),
        Job(root / "plain_stopped", plain, stop_after=STOPPED_AT),
    ]
    run_jobs(two, 2, root)
    for name in OTHER_SIZES:
        shutil.copytree(root / "plain_stopped", root / f"other_{name}")
    for processes in (1, 2):
        jobs = [
            Job(
                root / f"other_{name}",
                arguments(small, configuration, *SAME_ANYWHERE, *more),
                check_restored=True,
            )
            for name, (count, configuration, more) in OTHER_SIZES.items()
            if count == processes
        ]
        run_jobs(jobs, processes, root)
    return root


def lines(run: Path) -> list[dict[str, float]]:
    """The metrics, without what is measured in seconds."""
    timed = {
        *("samples_per_s", "tokens_per_s", "memory_gb", "mfu", "checkpoint_stall_s"),
        *("data_wait_s", "data_wait_slowest_s", "forward_s", "forward_slowest_s"),
    }
    return [{key: value for key, value in row.items() if key not in timed} for row in rows(run)]


@pytest.mark.parametrize("name", SAME_SIZE)
def test_at_the_same_size_it_goes_on_bit_for_bit(runs: Path, name: str) -> None:
    whole, resumed = runs / f"{name}_whole", runs / f"{name}_resumed"
    assert lines(resumed) == lines(whole)
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    first, second = newest_checkpoint(whole), newest_checkpoint(resumed)
    for group in first.manifest.groups:
        for kind in first.manifest.shards[0].kinds:
            theirs, ours = first.whole(group, kind), second.whole(group, kind)
            assert all((ours[key] == value).all() for key, value in theirs.items())
    assert second.manifest.state["progress"] == first.manifest.state["progress"]


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_on_other_hardware_the_sequence_goes_on(runs: Path, name: str) -> None:
    whole, resumed = lines(runs / "plain_whole"), lines(runs / f"other_{name}")
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    # The frozen weights of nf4 are others, so its losses are too, though near.
    tolerance = 0.1 if name == "nf4" else 2e-3
    for key in ("loss", "loss_seg", "loss_txt", "val_loss_seg"):
        expected = [row[key] for row in whole if key in row]
        assert [row[key] for row in resumed if key in row] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    "run",
    [*(f"{n}_resumed" for n in SAME_SIZE if n != "average"), *(f"other_{n}" for n in OTHER_SIZES)],
)
def test_engines_hold_what_the_checkpoint_holds(runs: Path, run: str) -> None:
    """As DeepSpeed's own accessors see it: every parameter with both moments."""
    assert int((runs / run / "restored").read_text()) > 300


def test_a_stopped_run_has_saved_its_last_step(runs: Path) -> None:
    stopped = runs / "plain_stopped"
    status = json.loads((stopped / "status.json").read_text())
    assert status == {"state": "stopped", "step": STOPPED_AT, "reason": "SIGTERM"}
    place = DirectoryPlace(stopped / "checkpoints")
    assert place.checkpoints()[-1] == CheckpointName(1, STOPPED_AT)
    CheckpointReader(place, CheckpointName(1, STOPPED_AT)).verify()
    assert not (stopped / "final").exists()
    assert not (stopped / "checkpoints" / "lease.json").exists()


def test_the_last_and_the_best_are_kept(runs: Path) -> None:
    names = DirectoryPlace(runs / "zero2_whole" / "checkpoints").checkpoints()
    assert [name.step for name in names] == [4, 5]
    best = json.loads((runs / "zero2_whole" / "best" / "model.json").read_text())["results"]
    assert best["step"] == 5
    assert 0 <= best["val_dice"] <= 1
