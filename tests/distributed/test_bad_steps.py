"""A gradient that is not finite, on one rank and one side, is everybody's bad step."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prs_med.checkpoint.manifest import MANIFEST, parse_manifest
from tests.distributed.launcher import Job, launch, run_jobs
from tests.run_folder import adapter, events, metrics, newest_checkpoint, newest_folder, rows
from tests.short_training import WITHOUT_DROPOUT, short

pytestmark = pytest.mark.distributed

CASES = [
    (config, side)
    for config in ("zero2", "zero3", "zero2_offload", "zero3_offload")
    for side in ("mllm", "segmentation")
]


def arguments(small, config: str, steps: int) -> list[str]:
    more = ["--batch_size", "1", "--gradient_accumulation_steps", "2", "--max_steps", str(steps)]
    return short(
        *(small.arguments(), "--precision", "fp32", *more, *WITHOUT_DROPOUT),
        config=config.removeprefix("zero"),
    )


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad_steps")
    jobs = [
        # The only step is spoilt in its first micro-batch: nothing may change.
        Job(
            root / f"{config}_{side}",
            arguments(small, config, 1),
            {"side": side, "micro_batch": 0, "rank": 1},
        )
        for config, side in CASES
    ]
    jobs += [
        Job(
            root / f"later_{config}",
            arguments(small, config, 3),
            {"side": "segmentation", "micro_batch": 3, "rank": 0},
        )
        for config in ("zero2", "zero3")
    ]
    jobs += [
        # The third step is spoilt, and the second was saved.
        Job(
            root / f"back_{config}",
            [
                *arguments(small, config, 6),
                *("--on_bad_step", "rollback", "--save_every_steps", "2", "--resume", "auto"),
            ],
            {"side": "mllm", "micro_batch": 5, "rank": 1},
        )
        for config in ("zero2", "zero3")
    ]
    jobs += [
        Job(
            root / f"jumps_{config}",
            # With such a rate the losses go up and down as the samples do.
            [*arguments(small, config, 24), "--loss_spike", "1.01", "--learning_rate", "1e-9"],
        )
        for config in ("zero2", "zero3")
    ]
    run_jobs(jobs, 2, root)
    return root


def newest_state(save_dir: Path) -> dict:
    return newest_checkpoint(save_dir).manifest.state


def skip_batch(save_dir: Path, batch: int) -> None:
    """Have the newest checkpoint say that a batch behind it is skipped."""
    file = newest_folder(save_dir) / MANIFEST
    manifest = parse_manifest(file.read_bytes(), str(file))
    manifest.state["progress"]["skipped_batches"] = [batch]
    file.write_bytes(manifest.dumps())


@pytest.mark.parametrize(("config", "side"), CASES)
def test_neither_side_is_changed(runs: Path, small, config: str, side: str) -> None:
    save_dir = runs / f"{config}_{side}"
    assert rows(save_dir, "loss")[0]["skipped_steps"] == 1
    kept = adapter(save_dir / "final")
    untouched = [value for name, value in kept.items() if "lora_B" in name]
    assert untouched
    assert all(torch.count_nonzero(value) == 0 for value in untouched)
    trained = load_file(save_dir / "final" / "segmentation.safetensors")
    original = torch.load(small.tinysam, weights_only=True)
    for name, value in trained.items():
        if name.startswith("image_encoder."):
            assert torch.equal(value, original[name]), name


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_training_goes_on_afterwards(runs: Path, config: str) -> None:
    found = rows(runs / f"later_{config}", "loss")
    assert [row["skipped_steps"] for row in found] == [0, 1, 1]
    assert [row["grad_norm"] is None for row in found] == [False, True, False]
    assert all(row["loss"] is not None for row in found)
    trained = load_file(runs / f"later_{config}" / "final" / "segmentation.safetensors")
    assert all(value.isfinite().all() for value in trained.values())


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_a_bad_step_is_written_with_its_samples(runs: Path, config: str) -> None:
    (event,) = events(runs / f"later_{config}")
    assert (event["step"], event["batch"], event["action"]) == (2, 1, "skip")
    assert event["cause"] == "a loss or gradient was not finite"
    # Two processes, each with two micro-batches of one sample.
    assert [len(ids) for ids in event["row_ids"]] == [2, 2]
    assert len({row for ids in event["row_ids"] for row in ids}) == 4


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_a_run_goes_back_and_on_without_the_batch(runs: Path, config: str) -> None:
    run = runs / f"back_{config}"
    (event,) = events(run)
    assert (event["step"], event["batch"], event["action"]) == (3, 2, "rollback")
    found = rows(run, "loss")
    # The bad step is told by the event alone.
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["skipped_steps"] for row in found] == [0, 0, 1, 1, 1, 1]
    state = newest_state(run)
    assert state["progress"]["skipped_batches"] == [2]
    # Seven batches of the sequence are behind the six steps.
    assert state["data"]["steps"] == 7


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_weights_are_those_of_the_checkpoint_after_going_back(
    runs: Path, small, config: str, tmp_path: Path
) -> None:
    """A run that was stopped after the second step, and goes on without the same batch in new
    processes, is the same run (up to rounding: the losses of single steps differed by 6e-8)."""
    stopped = Job(
        tmp_path / "run",
        [*arguments(small, config, 6), "--save_every_steps", "2", "--resume", "auto"],
        stop_after=2,
    )
    run_jobs([stopped], 2, tmp_path)
    skip_batch(tmp_path / "run", 2)
    run_jobs([Job(stopped.save_dir, stopped.arguments)], 2, tmp_path)
    expected = metrics(tmp_path / "run", "loss")
    assert metrics(runs / f"back_{config}", "loss") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_steps_whose_loss_jumps_are_skipped(runs: Path, config: str) -> None:
    run = runs / f"jumps_{config}"
    found, bad = rows(run, "loss"), {event["step"]: event for event in events(run)}
    remembered: list[float] = []
    jumps = []
    for row in found:
        # A line for each step has the loss of that step alone.
        if len(remembered) >= 10 and row["loss"] > 1.01 * statistics.median(remembered[-50:]):
            jumps.append(row["step"])
        else:
            remembered.append(row["loss"])
    assert jumps
    assert list(bad) == jumps
    assert found[-1]["skipped_steps"] == len(jumps)
    for step, event in bad.items():
        assert event["cause"] == "the loss jumped"
        assert event["loss"] == pytest.approx(found[step - 1]["loss"], rel=1e-5)


def test_a_run_may_stop_at_its_first_bad_step(small, tmp_path: Path) -> None:
    done = launch(
        [
            *("launch/train.py", *arguments(small, "zero2", 8), "--on_bad_step", "stop"),
            *("--learning_rate", "1e9", "--max_grad_norm", "0", "--warmup_ratio", "0"),
            *("--save_dir", str(tmp_path / "run")),
        ],
        processes=2,
    )
    assert done.returncode == 3
    assert "a loss or gradient was not finite; rank 0's samples: phantom_" in done.stderr
    (event,) = events(tmp_path / "run")
    assert event["action"] == "stopped"


def test_too_many_bad_steps_stop_the_run(small, tmp_path: Path) -> None:
    done = launch(
        [
            *("launch/train.py", *arguments(small, "zero2", 8)),
            # Numbers overflow at once with such a rate.
            *("--learning_rate", "1e9", "--max_grad_norm", "0", "--warmup_ratio", "0"),
            *("--max_bad_steps", "2", "--save_dir", str(tmp_path / "run")),
        ],
        processes=2,
    )
    assert done.returncode == 3
    assert "2 bad steps without a good one (--max_bad_steps), the last: step" in done.stderr
    assert "phantom_" in done.stderr  # the samples are named
    assert not (tmp_path / "run" / "final").exists()
