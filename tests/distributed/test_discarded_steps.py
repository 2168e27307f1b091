"""A step that is not taken leaves nothing behind, under every shipped configuration as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed.launcher import ROOT, Job, run_jobs

pytestmark = pytest.mark.distributed

SHIPPED = sorted(path.stem for path in (ROOT / "ds_configs").glob("*.json"))
STAGE_1 = {"zero1": "zero2", "zero1_offload": "zero2_offload"}
"""Made of the files for stage 2."""
CONFIGS = [*SHIPPED, *STAGE_1]
BAD = {"side": "mllm", "micro_batch": 1, "rank": 1, "factor": "nan"}
KINDS = {
    "never": {"without_step": 1},
    "not_finite": {"spoil": BAD},
    "vetoed": {"veto_step": 1},
}
"""What becomes of the first of two steps."""


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("discarded")
    files = {name: ROOT / "ds_configs" / f"{name}.json" for name in SHIPPED}
    for name, source in STAGE_1.items():
        config = json.loads(files[source].read_text())
        config["zero_optimization"]["stage"] = 1
        files[name] = root / f"{name}.json"
        files[name].write_text(json.dumps(config))
    arguments = [
        *small.arguments(),
        *("--batch_size", "1", "--gradient_accumulation_steps", "2", "--image_size", "64"),
        *("--max_steps", "2", "--log_every", "1", "--num_workers", "0", "--warmup_ratio", "0"),
        *("--lora_dropout", "0", "--decoder_dropout", "0"),
    ]
    jobs = [
        Job(root / f"{config}_{kind}", [*arguments, "--deepspeed", str(files[config])], **more)
        for config in CONFIGS
        for kind, more in KINDS.items()
    ]
    run_jobs(jobs, 2, root)
    return root


def norms(save_dir: Path) -> list[float | None]:
    rows = map(json.loads, (save_dir / "metrics.jsonl").read_text().splitlines())
    return [row["grad_norm"] for row in rows if "grad_norm" in row]


def weights(save_dir: Path) -> dict[str, Tensor]:
    final = save_dir / "final"
    adapter = load_file(final / "adapter" / "adapter_model.safetensors")
    return adapter | load_file(final / "segmentation.safetensors")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "never"])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_next_step_is_as_if_it_had_not_been(runs: Path, config: str, kind: str) -> None:
    expected, found = runs / f"{config}_never", runs / f"{config}_{kind}"
    assert norms(expected)[1] is not None
    assert norms(found)[1] == norms(expected)[1]
    start = weights(expected)
    assert start.keys() == weights(found).keys()
    for name, value in weights(found).items():
        assert torch.equal(value, start[name]), name


@pytest.mark.parametrize("config", CONFIGS)
def test_the_next_step_was_taken(runs: Path, config: str) -> None:
    """Else equal weights would prove nothing."""
    trained = weights(runs / f"{config}_not_finite")
    lora = [value for name, value in trained.items() if "lora_B" in name]
    assert lora
    assert all(value.any() for value in lora)
