"""What only a GPU can show."""

from __future__ import annotations

import pytest
import torch

from prs_med.model.prs_med import forward
from tests.unit.assembled import assemble

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@torch.no_grad()
def test_the_gpu_computes_what_the_cpu_computes(small) -> None:
    model = assemble(small)
    batch = model.batch(model.records[:3])
    expected = forward(model.mllm, model.segmentation, batch)
    device = torch.device("cuda")
    found = forward(model.mllm.to(device), model.segmentation.to(device), batch.to(device))
    for name, value in vars(expected).items():
        torch.testing.assert_close(
            getattr(found, name).cpu(),
            value,
            rtol=1e-3,
            atol=1e-3,
            msg=lambda m, n=name: f"{n}: {m}",
        )
