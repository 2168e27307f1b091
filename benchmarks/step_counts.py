"""What a step costs whatever the machine: FLOPs, and bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.step_recipes import Variant
from prs_med.batch import Batch
from prs_med.plan.gpu_attention import gpu_attention
from prs_med.plan.op_trace import OpRecorder


@dataclass(frozen=True)
class Counts:
    """Of one step."""

    flops: int
    """Of forward and backward passes, recomputation included."""
    kept: int
    """Most bytes that autograd holds at the start of a backward pass, weights and inputs aside."""


def counts(variant: Variant, batch: Batch) -> Counts:
    """Run a step, best on the meta device, and count as on a GPU with fused attention kernels."""
    known = [*_tensors(variant, batch)]
    recorder, kept = OpRecorder(known), _Kept(known)
    with ExitStack() as stack:
        stack.enter_context(gpu_attention())
        stack.enter_context(recorder)
        stack.enter_context(saved_tensors_hooks(kept.save, lambda tensor: tensor))
        variant.run(batch, kept.mark)
    for parameter in variant.parameters():
        parameter.grad = None
    return Counts(int(recorder.trace().flops.sum()), kept.most)


def _tensors(variant: Variant, batch: Batch) -> Iterator[Tensor]:
    for module in (variant.model.mllm, variant.model.segmentation):
        yield from module.parameters()
        yield from module.buffers()
    records = [batch] if batch.packing is None else [batch, batch.packing]
    for record in records:
        yield from (value for value in vars(record).values() if isinstance(value, Tensor))


class _Kept:
    """Bytes of the tensors that are saved for a backward pass."""

    def __init__(self, known: list[Tensor]) -> None:
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._held: dict[int, torch.UntypedStorage] = {}
        self.most = 0

    def save(self, tensor: Tensor) -> Tensor:
        """Called for each tensor that is saved."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._held[storage._cdata] = storage
        return tensor

    def mark(self, name: str) -> None:
        """A forward pass has ended with its losses, or a backward pass."""
        if name == "losses":
            self.most = max(self.most, sum(held.nbytes() for held in self._held.values()))
        self._held.clear()
