"""Checkpoints of real training runs, of every kind, become the model that was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prs_med.data.rows import read_records
from prs_med.data.samples import Preparation, SampleDataset
from prs_med.data.split import split_records
from prs_med.evaluate.results_files import read_results
from prs_med.export.load import load_model
from prs_med.export.merged_model import export_merged
from prs_med.export.named_checkpoint import find_checkpoints
from prs_med.export.trained_folder import export_trained
from prs_med.model.errors import CheckpointError
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from tests.distributed.launcher import Job, run_jobs
from tests.programs import succeed
from tests.run_folder import last_scores
from tests.short_training import short
from tests.unit.assembled import read_inputs

pytestmark = pytest.mark.distributed

FIRST = {
    "zero2": (2, []),
    "zero3": (3, []),
    "average": (2, ["--ema_decay", "0.5"]),
    "average_zero3": (3, ["--ema_decay", "0.5"]),
    "frozen_mllm": (2, ["--freeze_mllm"]),
    "frozen_encoder": (2, ["--freeze_encoder"]),
    "frozen_decoder": (2, ["--freeze_decoder"]),
    "projector": (3, ["--train_projector"]),
    "full": (3, ["--finetune", "full", "--train_projector"]),
}
"""Stage of ZeRO, and further settings."""
SECOND = {
    "on_with_frozen_mllm": (3, "zero2", ["--freeze_mllm"]),
    "on_with_frozen_decoder": (2, "zero2", ["--freeze_decoder"]),
    "on_with_projector": (2, "projector", []),
    "on_with_full": (2, "full", ["--train_projector", "false"]),
}
"""The same for runs that start from another's ``final``."""
KINDS = [*FIRST, *SECOND]


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")

    def job(name: str, stage: int, more: list[str]) -> Job:
        arguments = short(
            *(small.arguments(), "--max_steps", "3", "--learning_rate", "1e-3"),
            *("--precision", "fp32", "--save_every_steps", "2", *more),
            config=stage,
        )
        return Job(root / name, arguments)

    jobs = [job(name, stage, more) for name, (stage, more) in FIRST.items()]
    jobs += [
        job(name, stage, ["--init_from", str(root / before / "final"), *more])
        for name, (stage, before, more) in SECOND.items()
    ]
    run_jobs(jobs, 2, root)
    return root


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(folder)}/{name}": value
        for file in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def assert_equal_folders(one: Path, other: Path) -> None:
    expected, found = tensors(one), tensors(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for name in ("model.json", "settings.yaml", "tokenizer/tokenizer.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@torch.no_grad()
def scores(small, checkpoint: Path) -> dict[str, float]:
    """Validation losses of the model as inference loads it, one sample at a time."""
    model = load_model(str(checkpoint))
    inputs = read_inputs(small, image_size=64)
    records = split_records(read_records(inputs.settings).records, 0.1, 0).val
    samples = SampleDataset(records, Preparation(inputs.prompts, inputs.sizes, model.modalities))
    rows = []
    for index in range(len(samples)):
        batch = inputs.collator([samples[index]])
        terms = loss_terms(forward(model.mllm, model.segmentation, batch), batch, inputs.settings)
        rows.append([terms.segmentation.item(), terms.text.item(), terms.modality.item()])
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return dict(zip(("val_loss_seg", "val_loss_txt", "val_loss_cls"), means, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_is_the_model_that_was_trained(small, runs: Path, kind: str) -> None:
    """Including what was frozen, and so is in no checkpoint."""
    # What training itself measured after its last step, on its engines.
    expected = last_scores(runs / kind)
    for name, value in scores(small, runs / kind).items():
        assert value == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_checkpoint_gives_final_bit_for_bit(runs: Path, kind: str, tmp_path: Path) -> None:
    export_trained(find_checkpoints(str(runs / kind)).open(), tmp_path / "again")
    assert_equal_folders(runs / kind / "final", tmp_path / "again")


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_computes_the_same(small, runs: Path, kind: str, tmp_path: Path) -> None:
    export_merged(runs / kind / "final", tmp_path / "merged", "fp32")
    # What training itself measured after its last step, on its engines.
    expected = last_scores(runs / kind)
    for name, value in scores(small, tmp_path / "merged").items():
        # The vocabulary of 512 has one token more now, which takes its share of probability.
        tolerance = 1e-3 if name == "val_loss_txt" else 1e-4
        assert value == pytest.approx(expected[name], rel=tolerance), name


def test_the_programs(small, runs: Path, tmp_path: Path) -> None:
    """Exported in every form, and evaluated from each: the same answers and masks."""
    run = runs / "zero2"
    checkpoint = run / "checkpoints" / "step-00000003-01"
    assert "step        3 of 3" in succeed("export", "inspect", run)
    assert succeed("export", "verify", run, "--all").count("whole") == 2
    succeed("export", "trained", run, "--output_dir", tmp_path / "trained")
    assert_equal_folders(run / "final", tmp_path / "trained")
    succeed(
        *("export", "merged", checkpoint, "--output_dir", tmp_path / "merged", "--dtype", "fp32")
    )
    succeed("export", "export-released", checkpoint, "--output_dir", tmp_path / "released")
    modalities = json.loads((run / "final" / "model.json").read_text())["modalities"]
    succeed(
        *("export", "import-released", tmp_path / "released", "--vlm_path", small.llava_med),
        *("--modalities", ",".join(modalities), "--output_dir", tmp_path / "back"),
    )
    back = tensors(tmp_path / "back")
    assert all(torch.equal(back[n], v) for n, v in tensors(run / "final").items())
    answers = {}
    for name in ("final", "checkpoint", "run", "merged"):
        weights = {"final": run / "final", "checkpoint": checkpoint, "run": run}
        output = tmp_path / f"evaluated_{name}"
        succeed(
            *("eval", "--checkpoint", weights.get(name, tmp_path / name)),
            *("--data_root", small.data, "--output_dir", output, "--max_new_tokens", 12),
        )
        _, answers[name] = read_results(output)
        for row in answers[name]:
            del row["seconds"]
    assert answers["checkpoint"] == answers["run"] == answers["final"]
    for ours, merged in zip(answers["final"], answers["merged"], strict=True):
        assert merged["predicted_answer"] == ours["predicted_answer"]
        # Pixels whose logits are nearly zero may change sides.
        assert merged["dice"] == pytest.approx(ours["dice"], abs=5e-3)


def test_frozen_weights_that_changed_are_refused(small, runs: Path, tmp_path: Path) -> None:
    from prs_med.model.tiny_encoders import write_tinysam

    write_tinysam(tmp_path / "other.pth", seed=8)
    reader = find_checkpoints(str(runs / "frozen_encoder")).open()
    with pytest.raises(CheckpointError, match=r"another frozen segmentation side: .* tensors"):
        export_trained(reader, tmp_path / "out", sam_ckpt=str(tmp_path / "other.pth"))
    assert not (tmp_path / "out").exists()


def test_a_frozen_projector_that_changed_is_refused(runs: Path, tmp_path: Path) -> None:
    """With --init_from it is neither in the base model's files nor in the checkpoint."""
    other = tmp_path / "other"
    shutil.copytree(runs / "full" / "final", other)
    (file,) = other.rglob("model.safetensors")
    weights = load_file(file)
    (name, *_) = [name for name in weights if "projector" in name]
    save_file({**weights, name: weights[name] + 1}, file, {"format": "pt"})
    reader = find_checkpoints(str(runs / "on_with_full")).open()
    with pytest.raises(CheckpointError, match=r"another frozen adapter: 1 of .* tensors"):
        export_trained(reader, tmp_path / "out", init_from=str(other))
