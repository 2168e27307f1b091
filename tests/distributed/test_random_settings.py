"""Whatever is combined, a run that ends before its time goes on as if nothing had happened.

``PRS_MED_RANDOM_SETTINGS=100`` (``make test-settings``) tries so many combinations, else it is two.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prs_med.storage.directory import DirectoryStore
from tests.conftest import Small
from tests.distributed.launcher import Job, run_jobs
from tests.distributed.random_settings import STEPS, drawn
from tests.run_folder import loss_curve
from tests.small_dataset import ask_again, build_small

pytestmark = pytest.mark.distributed

PROCESSES = 2
COMBINATIONS = range(int(os.environ.get("PRS_MED_RANDOM_SETTINGS", "2")))


@pytest.fixture(scope="module")
def dataset(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with several questions each."""
    root = tmp_path_factory.mktemp("questions")
    shutil.copytree(small.data, root / "data")
    ask_again(root / "data", "Say it briefly", every=2)
    build_small(root / "data", DirectoryStore(root / "dataset"), 30_000, 120_000)
    return root / "dataset"


def trained(run: Path) -> dict[str, torch.Tensor]:
    """All weights that a run has written at its end, by their files and names."""
    return {
        f"{file.relative_to(run)} {name}": value
        for file in sorted((run / "final").rglob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("number", COMBINATIONS)
def test_a_disturbed_run_ends_like_an_undisturbed_one(
    small: Small, dataset: Path, tmp_path: Path, number: int
) -> None:
    combination = drawn(number, small, dataset, tmp_path, PROCESSES)
    print(f"{number}: {combination.ends_by} after {combination.ends_after}: {combination.text}")
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    arguments = combination.arguments
    ended = Job(
        disturbed,
        arguments,
        stop_after=combination.ends_after,
        stop_by=combination.ends_by,
    )
    killed = combination.ends_by == "SIGKILL"
    run_jobs([Job(whole, arguments), ended], PROCESSES, tmp_path, survive=not killed)
    assert not (disturbed / "final").exists()
    run_jobs([Job(disturbed, arguments)], PROCESSES, tmp_path)
    curve = loss_curve(whole)
    assert [step for step, *_ in curve] == list(range(1, STEPS + 1))
    assert loss_curve(disturbed) == curve
    expected, found = trained(whole), trained(disturbed)
    assert expected.keys() == found.keys()
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert different == []
