"""A training step never waits for a GPU's results before it has queued all its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from tests.unit.assembled import assemble

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_scatter_backward.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
"""Operations whose result, or its size, the host must know before it can go on."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class Waits(TorchDispatchMode):
    """Notes the operations at which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        by_mask = func in INDEXING and any(
            isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1])
        )
        if func in WAITING or by_mask:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
    ],
)
def test_waits_are_found(wait: Callable[[Tensor], object]) -> None:
    with Waits() as waits:
        wait(torch.arange(3.0))
    assert waits.found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_checkpointing": True, "encoder_checkpointing": True},
        {"segmentation_loss": "bce_dice"},
        {"segmentation_precision": "bf16", "encoder_checkpointing": True},
        {"train_projector": True},
    ],
)
def test_a_step_has_none(small, changes: dict[str, Any]) -> None:
    model = assemble(small, **changes)
    batch = model.batch(model.records[:3])
    with Waits() as waits:
        terms = loss_terms(forward(model.mllm, model.segmentation, batch), batch, model.settings)
        terms.total(model.settings, 0.0, batch).backward()
    assert waits.found == []
