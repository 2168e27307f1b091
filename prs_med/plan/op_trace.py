"""What every operation of a computation costs: FLOPs, bytes moved, and memory held after it.

The operations that PyTorch starts below autograd are seen one by one, forward and backward, on any
device. FLOPs are those of PyTorch's own counter
(:class:`torch.utils.flop_counter.FlopCounterMode`): two for a multiplication with addition, and
matrix products, convolutions and attention alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from prs_med.plan.meta_results import MetaResults


class Part(IntEnum):
    """Whose work an operation is, or whose result a piece of memory holds."""

    CLIP = 0
    LANGUAGE_MODEL = 1
    LM_HEAD = 2
    ENCODER = 3
    DECODER = 4
    LOSSES = 5
    BACKWARD = 6
    """Of memory alone: gradients and other passing results of the backward pass."""

    @property
    def title(self) -> str:
        """For people."""
        return PART_TITLES[self]


PART_TITLES = {
    Part.CLIP: "CLIP tower",
    Part.LANGUAGE_MODEL: "language model",
    Part.LM_HEAD: "LM head and logits",
    Part.ENCODER: "encoder",
    Part.DECODER: "mask decoder",
    Part.LOSSES: "losses",
    Part.BACKWARD: "gradients in the backward pass",
}


class Phase(IntEnum):
    """When an operation runs."""

    FORWARD = 0
    BACKWARD = 1
    RECOMPUTE = 2
    """Forward again, within the backward pass, where activations were not kept."""


class Unit(IntEnum):
    """Which of a GPU's units computes, as PyTorch is set by default."""

    BF16 = 0
    TF32 = 1
    """Convolutions in fp32."""
    FP32 = 2
    """Matrix products in fp32."""


_RESULTS = MetaResults()
"""For all traces of the process: ways of training differ in few operations."""

NO_LAYER = -1
"""Of operations that belong to none of the layers that :attr:`OpRecorder.layer` tells apart."""


class OpTrace:
    """One row for each operation that starts a kernel, in order."""

    def __init__(
        self, rows: Sequence[Sequence[int]] | np.ndarray, live: Sequence[Sequence[int]] | np.ndarray
    ) -> None:
        """``rows`` and ``live`` as :class:`OpRecorder` makes them."""
        self.rows: np.ndarray = np.array(rows, dtype=np.int64).reshape(len(rows), 6)
        """All but :attr:`live`, in whole numbers."""
        self.live_bytes: np.ndarray = np.array(live, dtype=np.int64).reshape(len(rows), len(Part))
        """As :attr:`live`, in whole numbers."""
        self.part, self.phase, self.unit = (self.rows[:, column] for column in range(3))
        self.flops = self.rows[:, 3].astype(np.float64)
        """Of each operation."""
        self.moved = self.rows[:, 4].astype(np.float64)
        """Bytes that each operation reads and writes, if nothing stays in caches."""
        self.layer = self.rows[:, 5]
        """Whose operation it is, as :attr:`OpRecorder.layer` said."""
        self.live = self.live_bytes.astype(np.float64)
        """Bytes held after each operation, by part: (operations, parts)."""

    def same_operations(self, other: OpTrace) -> bool:
        """Whether both did the same, if with other sizes."""
        return (
            len(self.part) == len(other.part)
            and bool((self.part == other.part).all())
            and bool((self.phase == other.phase).all())
            and bool((self.unit == other.unit).all())
        )


class OpRecorder(TorchDispatchMode):
    """Within this context, every operation is recorded."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """``known``: tensors that are there before, such as weights and inputs; not counted."""
        super().__init__()
        self.in_backward = False
        self.part_in_backward = Part.LOSSES
        self.layer = NO_LAYER
        """The number of the layer that computes, in the forward pass."""
        self.layer_in_backward = NO_LAYER
        """The number of the layer whose backward pass computes."""
        self._parts: list[Part] = []
        self._rows: list[tuple[int, ...]] = []
        self._live_after: list[list[int]] = []
        self._live = [0] * len(Part)
        # A storage's address may be used again after it is gone: whoever is here is still alive.
        self._alive: dict[int, Any] = {}
        self._known = [tensor.untyped_storage() for tensor in known]
        self._known_keys = {storage._cdata for storage in self._known}

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """Count what happens within this context to a part."""
        self.enter(part)
        try:
            yield
        finally:
            self.leave()

    def enter(self, part: Part) -> None:
        """From now on a part computes."""
        self._parts.append(part)

    def leave(self) -> None:
        """Back to the part before."""
        self._parts.pop()

    @property
    def now(self) -> Part:
        """The part that computes."""
        if self.in_backward:
            return self.part_in_backward
        return self._parts[-1] if self._parts else Part.LOSSES

    @property
    def layer_now(self) -> int:
        """The number of the layer that computes."""
        return self.layer_in_backward if self.in_backward else self.layer

    @property
    def phase(self) -> Phase:
        """What it computes."""
        if not self.in_backward:
            return Phase.FORWARD
        # Gradients of gradients are not wanted. So this is checkpointing, which computes again.
        return Phase.RECOMPUTE if torch.is_grad_enabled() else Phase.BACKWARD

    @property
    def operations(self) -> int:
        """How many were recorded so far."""
        return len(self._rows)

    def trace(self) -> OpTrace:
        """What was recorded."""
        return OpTrace(self._rows, self._live_after)

    def held(self) -> dict[Part, int]:
        """Bytes held now, by part."""
        return {part: self._live[part] for part in Part}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See torch."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            # There are no values to look at. The one question that the model asks of them is
            # whether all tokens are real; some are padding.
            return False
        result = _RESULTS(func, args, kwargs)
        outputs = list(tensors_in(result))
        for output in outputs:
            self._follow(output)
        if not _is_view(func):
            inputs = [*tensors_in(args), *tensors_in(tuple(kwargs.values()))]
            self._record(func, args, kwargs, result, inputs, outputs)
        return result

    def _follow(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._known_keys:
            return
        part = Part.BACKWARD if self.phase is Phase.BACKWARD else self.now
        size = storage.nbytes()
        self._live[part] += size
        self._alive[key] = weakref.ref(storage, self._freed(key, part, size))

    def _freed(self, key: int, part: Part, size: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            self._live[part] -= size
            self._alive.pop(key, None)

        return forget

    def _record(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Any,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        flops = _flops(func, args, kwargs, result)
        if func.__name__.startswith("empty"):
            moved = 0
        else:
            moved = sum(_bytes(tensor) for tensor in (*inputs, *outputs))
        unit = _unit(func, inputs)
        self._rows.append((self.now, self.phase, unit, flops, moved, self.layer_now))
        self._live_after.append(list(self._live))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """A tensor, or those in a list or tuple, and in lists and tuples within it. What operations
    take and give is never nested otherwise, and PyTorch's general search takes several times as
    long as many of the operations."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def _flops(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    if func is torch.ops.aten.convolution_backward.default:
        return _convolution_backward_flops(*args)
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


def _convolution_backward_flops(
    gradient: Tensor, image: Tensor, weight: Tensor, *options: Any
) -> int:
    """As many as in the forward pass for each of the gradients of image and weight.

    PyTorch's formula for that of the weight (2.13) leaves groups out, which counts a depthwise
    convolution too high by a factor of its channels.
    """
    *_, transposed, _, _, wanted = options
    positions = image if transposed else gradient
    each = 2 * positions.numel() * weight[0].numel()
    return each * sum(wanted[:2])


@cache
def _is_view(func: Any) -> bool:
    return bool(func.is_view) or func.__name__.startswith(("_unsafe_view", "detach", "lift_fresh"))


def _bytes(tensor: Tensor) -> int:
    """What reading it once moves: a broadcast tensor is smaller than its shape says."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _unit(func: Any, inputs: Sequence[Tensor]) -> Unit:
    if inputs and inputs[0].dtype == torch.bfloat16:
        return Unit.BF16
    return Unit.TF32 if "convolution" in func.__name__ else Unit.FP32
