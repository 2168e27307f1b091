"""What a step costs whatever the machine: FLOPs, and bytes kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.step_clock import PartMarks
from benchmarks.step_recipes import Variant, two_pass
from prs_med.batch import Batch
from prs_med.plan.gpu_attention import gpu_attention
from prs_med.plan.op_trace import OpRecorder, OpTrace


@dataclass(frozen=True)
class Counts:
    """Of one step."""

    kept: int
    """Most bytes that autograd holds at the start of a backward pass, weights and inputs aside."""
    trace: OpTrace
    """Its operations in order, recomputation included."""
    names: np.ndarray
    """What each of them is a part of, one of :data:`benchmarks.step_clock.PARTS`."""
    arithmetic: str
    """As in --segmentation_precision."""

    @property
    def flops(self) -> int:
        """Of forward and backward passes, recomputation included."""
        return int(self.trace.flops.sum())


def counts(variant: Variant, batch: Batch) -> Counts:
    """Run a step, best on the meta device, and count as on a GPU with fused attention kernels."""
    known = [*_tensors(variant, batch)]
    recorder = OpRecorder(known)
    marks = _Marks(known, recorder)
    with ExitStack() as stack:
        stack.enter_context(gpu_attention())
        stack.enter_context(PartMarks(variant.model, marks.mark))
        stack.enter_context(recorder)
        stack.enter_context(saved_tensors_hooks(marks.save, lambda tensor: tensor))
        variant.run(batch, marks.mark)
        marks.mark("LM backward")
    for parameter in variant.parameters():
        parameter.grad = None
    recipe = variant.recipe
    # On the meta device there is no autocast, in which the older recipe computes.
    arithmetic = "bf16" if recipe.step is two_pass else recipe.segmentation_precision
    return Counts(marks.most, recorder.trace(), np.array(marks.names), arithmetic)


def _tensors(variant: Variant, batch: Batch) -> Iterator[Tensor]:
    for module in (variant.model.mllm, variant.model.segmentation):
        yield from module.parameters()
        yield from module.buffers()
    records = [batch] if batch.packing is None else [batch, batch.packing]
    for record in records:
        yield from (value for value in vars(record).values() if isinstance(value, Tensor))


class _Marks:
    """Learns from marks, as a clock does, what operations belong to and how many bytes are saved
    for a backward pass."""

    def __init__(self, known: list[Tensor], recorder: OpRecorder) -> None:
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._held: dict[int, torch.UntypedStorage] = {}
        self._recorder = recorder
        self.names: list[str] = []
        self.most = 0

    def save(self, tensor: Tensor) -> Tensor:
        """Called for each tensor that is saved."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._held[storage._cdata] = storage
        return tensor

    def mark(self, name: str) -> None:
        """A part of the forward pass, or of a backward pass, has ended."""
        self.names += [name] * (self._recorder.operations - len(self.names))
        if name == "losses":
            self.most = max(self.most, sum(held.nbytes() for held in self._held.values()))
        if name in ("losses", "LM backward"):
            self._held.clear()
