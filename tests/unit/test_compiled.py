"""Compiled regions compute what they did before, and are compiled as rarely as can be."""

from __future__ import annotations

from functools import partialmethod

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from prs_med.batch import Batch
from prs_med.config import COMPILED_REGIONS
from prs_med.model.compiled import compile_regions
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from tests.unit.assembled import Assembled, assemble

_compile = nn.Module.compile


def compile_by(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have modules compiled so: code for a CPU would take minutes to make."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(_compile, backend=backend))


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are what is counted here."""
    compile_by("eager", monkeypatch)
    torch._dynamo.reset()
    counters.clear()


def trained(model: Assembled, batch: Batch) -> dict[str, Tensor]:
    """Gradients of one step."""
    terms = loss_terms(forward(model.mllm, model.segmentation, batch), batch, model.settings)
    terms.total(model.settings, 0.0, batch).backward()
    found = {n: p.grad for n, p in model.parameters().items() if p.grad is not None}
    for parameter in model.parameters().values():
        parameter.grad = None
    return found


@pytest.mark.parametrize("flag", [None, "train_projector", "gradient_checkpointing", "load_4bit"])
def test_one_graph_serves_all_layers_and_lengths(small, flag: str | None) -> None:
    model = assemble(small, **({flag: True} if flag else {}))
    assert len(model.mllm.llava.model.language_model.layers) > 1
    batches = [model.batch(model.records[first : first + size]) for first, size in ((0, 3), (7, 2))]
    lengths = {batch.input_ids.shape for batch in batches}
    assert len(lengths) == len(batches)
    expected = [trained(model, batch) for batch in batches]
    compile_regions(model.mllm, model.segmentation, ("language_model",))
    for batch, gradients in zip(batches, expected, strict=True):
        found = trained(model, batch)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


def test_every_region_computes_as_before(small, monkeypatch: pytest.MonkeyPatch) -> None:
    # Forward and backward, as they are handed to the code generator.
    compile_by("aot_eager", monkeypatch)
    model = assemble(small)
    batch = model.batch(model.records[:3])
    expected = trained(model, batch)
    compile_regions(model.mllm, model.segmentation, COMPILED_REGIONS)
    found = trained(model, batch)
    assert counters["stats"]["unique_graphs"] >= len(COMPILED_REGIONS)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
