"""``launch/train.py`` as its users meet it: settings, messages, files, exit codes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from prs_med.answering_config import EvaluationSettings
from prs_med.data.stored_split import StoredSplit
from prs_med.evaluate.open_questions import open_split
from prs_med.export.named_checkpoint import find_checkpoints
from prs_med.settings_io import load_settings
from tests.programs import ROOT, refused, run, succeed
from tests.run_folder import metrics, rows
from tests.short_training import short

pytestmark = pytest.mark.distributed


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One process, without the launcher."""
    return run("train", *arguments)


def quick(small, save_dir: Path, *more: str) -> list[str]:
    return short(small.arguments(), "--max_steps", "2", "--save_dir", str(save_dir), *more)


def test_help_teaches() -> None:
    done = train("--help")
    assert done.returncode == 0
    for text in ("Data:", "Model:", "Loss:", "Optimisation:", "Run:", "--vlm_path", "(default: "):
        assert text in done.stdout


def test_kernels_for_a_gpu_are_asked_for_without_one(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = train(*quick(small, tmp_path / "run", "--use_liger_kernel"))
    refused(done, "--use_liger_kernel: Liger", "drop it")


def test_wrong_settings_end_in_one_line() -> None:
    refused(train("--batch_size", "0"), "--batch_size 0", "positive")
    refused(train("--data_root", "x"), "--vlm_path is required")


@pytest.fixture(scope="module")
def broken_data(small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The small data with one truncated training image; the name of its row."""
    root = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(small.data, root)
    path = sorted((root / "annotations").glob("*.csv"))[0]
    with path.open(encoding="utf-8", newline="") as file:
        number, row = next(
            (n, row) for n, row in enumerate(csv.DictReader(file), 2) if row["split"] == "train"
        )
    image = root / row["image_path"].replace("_masks", "_images")
    image.write_bytes(image.read_bytes()[:200])
    return root, f"{path.name}:{number}"


def test_truncated_image_stops_before_training(small, broken_data, tmp_path: Path) -> None:
    root, row = broken_data
    done = train(*quick(small, tmp_path / "run"), "--data_root", str(root))
    refused(done, row)


def test_truncated_image_is_named_when_met_in_a_worker(small, broken_data, tmp_path: Path) -> None:
    root, row = broken_data
    more = ["--verify_files", "false", "--num_workers", "1", "--max_steps", "30"]
    done = train(*quick(small, tmp_path / "run"), "--data_root", str(root), *more)
    refused(done, row)


def test_bad_rows_are_skipped_counted_and_listed_on_request(
    small, broken_data, tmp_path: Path
) -> None:
    root, row = broken_data
    done = train(*quick(small, tmp_path / "run"), "--data_root", str(root), "--on_bad_rows", "skip")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "skipped 1 bad rows" in done.stderr
    assert (tmp_path / "run" / "bad_rows.txt").read_text().startswith(row)


def streamed(small, data: str, save_dir: Path) -> list[str]:
    sources = small.streaming(data)
    return short(sources, "--max_steps", "2", "--save_dir", str(save_dir))


def test_a_damaged_dataset_stops_training_with_its_place(small, tmp_path: Path) -> None:
    succeed("data", "build", "--data_root", small.data, "--output", tmp_path / "set")
    (shard,) = (tmp_path / "set" / "data").glob("train-*.parquet")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    # An image is read, and compared with its checksum, when its turn comes: within an epoch.
    steps = ["--max_steps", "12"]
    done = train(*streamed(small, str(tmp_path / "set"), tmp_path / "run"), *steps)
    refused(done, shard.name, "row group 0, row", "the checksum is wrong")


def test_a_dataset_that_is_not_there_ends_in_one_line(small, tmp_path: Path) -> None:
    done = train(*streamed(small, str(tmp_path / "none"), tmp_path / "a"))
    refused(done, "none/dataset.json: no such file")
    done = train(*streamed(small, "gs://bucket/set", tmp_path / "b"))
    refused(done, "gs:// is not known here")


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory: pytest.TempPathFactory):
    """A run with monitors on, compiled, from a YAML file, without rows labelled val."""
    root = tmp_path_factory.mktemp("finished")
    data = root / "data"
    shutil.copytree(small.data, data)
    for path in (data / "annotations").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] != "val"]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    config = json.loads((ROOT / "ds_configs" / "zero2.json").read_text())
    config["csv_monitor"] = {"enabled": True, "output_path": str(root / "csv"), "job_name": "job"}
    config["tensorboard"] = {"enabled": True, "output_path": str(root / "tb"), "job_name": "job"}
    (root / "ds.json").write_text(json.dumps(config))
    (root / "run.yaml").write_text("preset: paper\nval_fraction: 0.25\n")
    done = train(
        *quick(small, root / "run"),
        *("--data_root", str(data), "--deepspeed", str(root / "ds.json")),
        *("--config", str(root / "run.yaml"), "--freeze_encoder"),
        # Code for the other two takes a CPU minutes to compile: see tests/unit/test_compiled.py
        # for what they compute, and tests/gpu for all three compiled.
        *("--compile_model", "--compile_regions", "language_model"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done


def test_held_out_validation_is_announced(finished) -> None:
    root, done = finished
    assert "no row is labelled val: 25% of the training images are held out" in done.stderr
    assert set(metrics(root / "run", "val_samples")) == {6.0}  # of 24


def test_what_was_held_out_is_kept_with_the_run_and_its_weights(finished, tmp_path: Path) -> None:
    root, _ = finished
    content = (root / "run" / "split.json").read_bytes()
    assert (root / "run" / "best" / "split.json").read_bytes() == content
    reader = find_checkpoints(str(root / "run")).open()
    assert reader.file("split.json") == content
    kept = StoredSplit.parse(content, "split.json")
    assert list(kept.images.values()).count("val") == 6
    assert len(kept.contents) == len(kept.images)
    # Evaluation asks about these, wherever the data lies now.
    moved = Path(shutil.copytree(root / "data", tmp_path / "moved"))
    settings = EvaluationSettings(data_root=str(moved), split="val")
    trained_with = load_settings(root / "run" / "settings.yaml")
    questions = open_split(settings, trained_with, True, content).questions
    names = {questions.question(number).image for number in range(len(questions))}
    assert {kept.split_of(name) for name in names} == {"val"}
    assert len(names) == 6


def test_the_run_folder_says_everything(finished) -> None:
    root, _ = finished
    settings = load_settings(root / "run" / "settings.yaml")
    assert settings.segmentation_loss == "bce_dice"
    logged = rows(root / "run")
    expected = """step epoch loss loss_seg loss_txt loss_cls grad_norm grad_norm_mllm
        grad_norm_seg learning_rate skipped_steps
        samples_per_s tokens_per_s memory_gb checkpoint_stall_s"""
    assert set(expected.split()) <= set(logged[0])
    page = (root / "run" / "report.html").read_text()
    assert f"Complete after step {logged[-1]['step']}" in page
    assert "val_dice" in page
    for name in ("best", "final"):
        files = {path.name for path in (root / "run" / name).iterdir()}
        assert {
            "adapter", "model.json", "segmentation.safetensors", "settings.yaml", "tokenizer"
        } <= files  # fmt: skip


def test_monitors_get_the_numbers(finished) -> None:
    root, _ = finished
    assert list((root / "csv").rglob("*loss*.csv"))
    assert list((root / "tb").rglob("events.out.tfevents.*"))


def test_a_second_run_never_overwrites_the_first(small, finished) -> None:
    root, _ = finished
    done = train(*quick(small, root / "run"))
    refused(done, "already holds a run")
