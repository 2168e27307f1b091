"""Training and reading from a dataset with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from prs_med.storage.directory import DirectoryStore
from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.distributed.streaming import killed_runs, uninterrupted
from tests.run_folder import metrics
from tests.short_training import WITHOUT_DROPOUT
from tests.small_dataset import build_small


@pytest.fixture(scope="module")
def dataset(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    build_small(small.data, DirectoryStore(folder), 50_000, 150_000)
    return folder


def test_processes_killed_in_mid_epoch_lose_and_repeat_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    rows = killed_runs(str(dataset), tmp_path, [2, 3, 1, 2], seed=0)
    # More than one epoch, so that the ends of epochs were crossed too.
    assert len(rows) > 24
    assert rows == uninterrupted(str(dataset), len(rows))


@pytest.mark.distributed
def test_training_is_the_same_for_any_number_of_processes_and_threads(
    small: Small, dataset: Path, tmp_path: Path
) -> None:
    common = [
        *(*small.streaming(dataset), "--deepspeed", "ds_configs/zero2.json"),
        *("--image_size", "96", "--precision", "fp32", "--max_steps", "8", "--log_every", "1"),
        *(*WITHOUT_DROPOUT, "--shuffle_window", "3"),
    ]

    def job(name: str, *arguments: str) -> Job:
        return Job(tmp_path / name, [*common, *arguments])

    run_jobs(
        [
            job("two", "--batch_size", "2"),
            job("cached", "--batch_size", "2", "--num_workers", "0", "--stream_memory_mb", "1",
                "--cache_dir", str(tmp_path / "cache")),
            job("by_image", "--batch_size", "2", "--batch_by_image"),
        ],
        2,
        tmp_path,
    )  # fmt: skip
    run_jobs([job("one", "--batch_size", "2", "--gradient_accumulation_steps", "2")], 1, tmp_path)

    def losses(name: str) -> list[float]:
        return metrics(tmp_path / name, "loss")

    def validation(name: str) -> float:
        return metrics(tmp_path / name, "val_dice")[-1]

    assert losses("cached") == losses("two")
    assert losses("one") == pytest.approx(losses("two"), rel=1e-4)
    # Every image has one question here, so batches by image are the same batches.
    assert losses("by_image") == losses("two")
    assert validation("cached") == validation("two")
    two, cached = (
        load_file(tmp_path / name / "final" / "segmentation.safetensors")
        for name in ("two", "cached")
    )
    assert all(bool((two[name] == cached[name]).all()) for name in two)
