"""Training and reading from a dataset with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from prs_med.data.dataset.build import Layout, build
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records
from prs_med.storage.directory import DirectoryStore
from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.distributed.streaming import killed_runs, uninterrupted


@pytest.fixture(scope="module")
def dataset(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    build(
        split_records(read_annotations(small.data, None, "error").records, 0.1, 0),
        small.data,
        DirectoryStore(folder),
        Layout(row_group_bytes=50_000, shard_bytes=150_000, shuffle=True, seed=0),
        held_out="",
        skip_bad_rows=False,
        allow_duplicates=False,
        workers=2,
        show_progress=False,
    )
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
        *("--deepspeed", "ds_configs/zero2.json", "--data", str(dataset)),
        *("--vlm_path", str(small.llava_med), "--sam_ckpt", str(small.tinysam)),
        *("--image_size", "96", "--precision", "fp32", "--max_steps", "8", "--log_every", "1"),
        *("--lora_dropout", "0", "--decoder_dropout", "0", "--shuffle_window", "3"),
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
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]

    def validation(name: str) -> float:
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return float(json.loads(lines[-1])["val_dice"])

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
