"""What only a GPU can show, on small models: run it with ``pytest tests/gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.liger import liger_kernels
from prs_med.batch import Batch
from prs_med.config import COMPILED_REGIONS
from prs_med.model.compiled import compile_regions
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from tests.distributed.launcher import launch
from tests.run_folder import loss_curve
from tests.unit.assembled import Assembled, assemble

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@contextmanager
def full_fp32() -> Iterator[None]:
    """Convolutions without TF32, which cuDNN takes by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def on_gpu(model: Assembled) -> Assembled:
    model.mllm.to("cuda")
    model.segmentation.to("cuda")
    return model


def loss_of(model: Assembled, batch: Batch) -> Tensor:
    terms = loss_terms(forward(model.mllm, model.segmentation, batch), batch, model.settings)
    return terms.total(model.settings, 0.0, batch)


def gradients(model: Assembled, batch: Batch) -> dict[str, Tensor]:
    """Of one step; none are left in the model."""
    loss_of(model, batch).backward()
    found = {n: p.grad.cpu() for n, p in model.parameters().items() if p.grad is not None}
    for parameter in model.parameters().values():
        parameter.grad = None
    return found


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Apart from ``share`` of each gradient, and what is next to nothing of all of them."""
    assert found.keys() == expected.keys()
    whole = float(torch.stack([each.float().norm() for each in expected.values()]).norm())
    for name, each in expected.items():
        difference = float((found[name].float() - each.float()).norm())
        assert difference <= share * float(each.float().norm()) + 0.01 * share * whole, name


@torch.no_grad()
def test_the_gpu_computes_what_the_cpu_computes(small) -> None:
    model = assemble(small)
    batch = model.batch(model.records[:3])
    expected = forward(model.mllm, model.segmentation, batch)
    with full_fp32():
        on_gpu(model)
        found = forward(model.mllm, model.segmentation, batch.to(torch.device("cuda")))
    for name, value in vars(expected).items():
        torch.testing.assert_close(
            getattr(found, name).cpu(),
            value,
            rtol=1e-3,
            atol=1e-3,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_gradients_are_those_of_the_cpu(small) -> None:
    model = assemble(small)
    batch = model.batch(model.records[:3])
    expected = gradients(model, batch)
    with full_fp32():
        found = gradients(on_gpu(model), batch.to(torch.device("cuda")))
    assert_alike(found, expected, 1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_checkpointing": True, "encoder_checkpointing": True},
        {"segmentation_precision": "bf16"},
        {"load_4bit": True, "precision": "bf16"},
        {"train_projector": True},
    ],
)
def test_a_step_does_not_wait_for_the_gpu(small, changes: dict[str, Any]) -> None:
    model = on_gpu(assemble(small, **changes))
    batch = model.batch(model.records[:3]).to(torch.device("cuda"))
    loss_of(model, batch).backward()  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_of(model, batch).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_would_be_noticed() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(3, device="cuda").sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("load_4bit", [False, True])
def test_compiled_regions_train_alike(small, load_4bit: bool) -> None:
    precision = {"load_4bit": True, "precision": "bf16"} if load_4bit else {}
    model = on_gpu(assemble(small, **precision))
    batches = [
        model.batch(model.records[first : first + 3]).to(torch.device("cuda")) for first in (0, 9)
    ]
    with full_fp32():
        expected = [gradients(model, batch) for batch in batches]
        compile_regions(model.mllm, model.segmentation, COMPILED_REGIONS)
        for batch, each in zip(batches, expected, strict=True):
            assert_alike(gradients(model, batch), each, 0.1 if load_4bit else 1e-3)


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}], ids=str)
def test_liger_computes_alike(small, changes: dict[str, Any]) -> None:
    pytest.importorskip("liger_kernel")
    model = on_gpu(assemble(small, **changes))
    batch = model.batch(model.records[:3]).to(torch.device("cuda"))
    with full_fp32():
        expected = gradients(model, batch)
        with liger_kernels(model.mllm):
            assert_alike(gradients(model, batch), expected, 1e-3)


def test_4bit_weights_compute_what_they_stand_for(small) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    model = on_gpu(assemble(small, load_4bit=True, precision="bf16"))
    layers = [each for each in model.mllm.modules() if isinstance(each, Linear4bit)]
    assert layers
    for layer in layers[:4]:
        x = torch.randn(5, layer.in_features, device="cuda", dtype=torch.bfloat16)
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        torch.testing.assert_close(layer(x), x @ weight.t(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "more",
    [
        ("--deepspeed", "ds_configs/zero2.json"),
        ("--deepspeed", "ds_configs/zero3.json"),
        ("--deepspeed", "ds_configs/zero2.json", "--load_4bit"),
        ("--deepspeed", "ds_configs/zero3.json", "--load_4bit"),
        ("--deepspeed", "ds_configs/zero2.json", "--compile_model"),
        ("--deepspeed", "ds_configs/zero2.json", "--use_liger_kernel"),
        ("--deepspeed", "ds_configs/zero3.json", "--use_liger_kernel"),
        ("--deepspeed", "ds_configs/zero2.json", "--segmentation_precision", "bf16"),
    ],
    ids=lambda more: " ".join(more[1:]),
)
def test_training_learns_and_goes_on(small, tmp_path: Path, more: tuple[str, ...]) -> None:
    if "--use_liger_kernel" in more:
        pytest.importorskip("liger_kernel")
    run = [
        *("launch/train.py", *small.arguments(), "--save_dir", str(tmp_path / "run")),
        *("--image_size", "64", "--batch_size", "4", "--log_every", "1", "--num_workers", "2"),
        *("--learning_rate", "1e-3", "--warmup_ratio", "0", "--validation_answers", "0", *more),
    ]
    first = launch([*run, "--max_steps", "6"], 1)
    assert first.returncode == 0, (first.stdout + first.stderr)[-4000:]
    losses = {step: loss for step, loss, _ in loss_curve(tmp_path / "run")}
    assert losses[6] < losses[1]
    again = launch([*run, "--max_steps", "6", "--resume", "auto"], 1)
    assert again.returncode == 0, (again.stdout + again.stderr)[-4000:]
