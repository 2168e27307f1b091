"""Questions that share the computation of their image train as they do apart, on real processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prs_med.data.phantoms import phantom_texts
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med
from prs_med.storage.directory import DirectoryStore
from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import metrics
from tests.short_training import WITHOUT_DROPOUT
from tests.small_dataset import build_small

pytestmark = pytest.mark.distributed

STEPS = 4
STOPPED_AT = 2
SHARED = ["--share_image_prefix"]
VARIANTS = {
    "zero3": (3, SHARED),
    "accumulated": (2, [*SHARED, "--batch_size", "1", "--gradient_accumulation_steps", "2"]),
    "checkpointing": (2, [*SHARED, "--gradient_checkpointing"]),
    "zero2": (2, SHARED),
}


@pytest.fixture(scope="module")
def asked(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """One, two and three questions about an image, whose tokens are most of a sequence."""
    root = tmp_path_factory.mktemp("asked")
    shutil.copytree(small.data, root / "data")
    for path in (root / "data" / "annotations").glob("*.csv"):
        head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        second = [row.replace("?", " now?", 1) for n, row in enumerate(rows) if n % 3]
        third = [row.replace("?", " and why?", 1) for row in rows[2::3]]
        path.write_text(head + "".join(rows + second + third), encoding="utf-8")
    size = TinyLlavaSize(image_size=112)
    write_llava_med(root / "llava_med", phantom_texts(small.data), seed=2, size=size)
    build_small(root / "data", DirectoryStore(root / "dataset"), 50_000, 150_000)
    return replace(small, data=root / "dataset", llava_med=root / "llava_med")


def arguments(asked: Small, stage: int, *more: str) -> list[str]:
    return [
        *(*asked.streaming(asked.data), "--deepspeed", f"ds_configs/zero{stage}.json"),
        *("--batch_by_image", "--batch_size", "2", "--train_projector", "--precision", "fp32"),
        *(*WITHOUT_DROPOUT, "--image_size", "64"),
        *("--max_steps", str(STEPS), "--log_every", "1", "--learning_rate", "1e-4"),
        *("--resume", "auto"),
        *more,
    ]


@pytest.fixture(scope="module")
def runs(asked: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared_prefix")
    plain, shared = arguments(asked, 2), arguments(asked, 2, *SHARED)
    jobs = [
        Job(root / "apart", plain, keep_gradients=True),
        *(
            Job(root / name, arguments(asked, stage, *more), keep_gradients=True)
            for name, (stage, more) in VARIANTS.items()
        ),
        Job(root / "resumed", shared, stop_after=STOPPED_AT),
        Job(root / "resumed", shared),
        Job(root / "switched", plain, stop_after=STOPPED_AT),
        Job(root / "switched", shared),
    ]
    run_jobs(jobs, 2, root)
    return root


def tokens_per_sample(run: Path) -> list[float]:
    rates = zip(metrics(run, "tokens_per_s"), metrics(run, "samples_per_s"), strict=True)
    return [tokens / samples for tokens, samples in rates]


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_those_of_samples_apart(runs: Path, variant: str) -> None:
    for name in ("loss", "loss_seg", "loss_txt", "grad_norm"):
        expected, found = metrics(runs / "apart", name), metrics(runs / variant, name)
        assert found[0] == pytest.approx(expected[0], rel=1e-5), name
        # Adam makes whole steps of gradients that are nothing but rounding.
        assert found == pytest.approx(expected, rel=2e-4), name
    for name in ("val_dice", "val_loss_txt"):
        expected, found = metrics(runs / "apart", name), metrics(runs / variant, name)
        assert found == pytest.approx(expected, rel=2e-3), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_gradients_are_those_of_samples_apart(runs: Path, variant: str) -> None:
    expected = load_file(runs / "apart" / "gradients.safetensors")
    found = load_file(runs / variant / "gradients.safetensors")
    assert found.keys() == expected.keys()
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm()
        assert error < 1e-5 * gradient.norm() + 1e-8 * whole, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_fewer_tokens_are_computed(runs: Path, variant: str) -> None:
    shared, apart = (tokens_per_sample(runs / name) for name in (variant, "apart"))
    assert sum(shared) < 0.9 * sum(apart)


def test_a_run_that_shares_goes_on_bit_for_bit(runs: Path) -> None:
    for name in ("loss", "grad_norm", "val_dice"):
        assert metrics(runs / "resumed", name) == metrics(runs / "zero2", name)


def test_sharing_can_begin_with_a_resume(runs: Path) -> None:
    """The sequence of samples is the same."""
    found = metrics(runs / "switched", "loss")
    assert found == pytest.approx(metrics(runs / "apart", "loss"), rel=2e-4)
    tokens, apart, shared = (tokens_per_sample(runs / n) for n in ("switched", "apart", "zero2"))
    expected = [*apart[:STOPPED_AT], *shared[STOPPED_AT:]]
    assert tokens == pytest.approx(expected)
    assert expected != pytest.approx(apart)
