"""A trace of many layers that are alike, from a trace of a few of them.

The layers of a transformer run one after the other, and in reverse in the backward pass. Behind the
first, each starts the operations that the one before it started, and lets memory grow or shrink by
as much. So the first four and the last are enough: whether the costs of the two in the middle are
the same is looked at, and theirs stand for those that were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor, nn

from prs_med.plan.op_trace import NO_LAYER, OpRecorder, OpTrace, Part

_RUN = 5
"""Layers that run: the first ones, and the last."""
_MIDDLE = 2
"""Of those, in the order in which they run: this one and the next are compared. Those before it may
still free what was there in front of the stack."""
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Stack:
    """Layers that are alike, each of which takes what the one before it gives."""

    run: tuple[nn.Module, ...]
    skipped: tuple[nn.Module, ...]

    @classmethod
    def of(cls, layers: Sequence[nn.Module] | nn.ModuleList) -> Stack | None:
        """None where they are too few, or not alike."""
        every = tuple(layers)
        if len(every) <= _RUN or len({_described(layer) for layer in every}) > 1:
            return None
        return cls((*every[: _RUN - 1], every[-1]), every[_RUN - 1 : -1])


def _described(layer: nn.Module) -> tuple[object, ...]:
    """Everything that decides what a layer computes, but its number and the weights' values."""
    return tuple(
        (
            name,
            type(module),
            tuple(
                (each, weight.shape, weight.dtype, weight.requires_grad)
                for each, weight in module.named_parameters(recurse=False)
            ),
            tuple(
                (key, value)
                for key, value in sorted(vars(module).items())
                if isinstance(value, _PLAIN) and key != "layer_idx"
            ),
        )
        for name, module in layer.named_modules()
    )


@contextmanager
def skipping(stacks: Sequence[Stack]) -> Iterator[None]:
    """Within this context, the skipped layers give what they get."""
    with ExitStack() as patches:
        for stack in stacks:
            for layer in stack.skipped:
                patches.enter_context(patch.object(layer, "forward", _handing_on))
        yield


def _handing_on(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden


@contextmanager
def numbered(stacks: Sequence[Stack], recorder: OpRecorder) -> Iterator[None]:
    """Within this context, the recorder is told which of the layers that run computes: they have
    numbers from 0, those of the first stack first."""

    def telling(number: int) -> Callable[..., None]:
        def tell(*_: Any) -> None:
            recorder.layer = number

        return tell

    layers = [layer for stack in stacks for layer in stack.run]
    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            hooks.callback(layer.register_forward_pre_hook(telling(number)).remove)
            hooks.callback(layer.register_forward_hook(telling(NO_LAYER)).remove)
        yield


@dataclass(frozen=True)
class _Stretch:
    """Operations of one layer that follow each other."""

    layer: int
    start: int
    end: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.end)


def unfolded(trace: OpTrace, stacks: Sequence[Stack]) -> OpTrace | None:
    """The trace as it were if the skipped layers had run too; None if the layers in the middle are
    not alike in all that is traced.

    Args:
        trace: recorded within :func:`skipping` and :func:`numbered`.
    """
    rows: list[np.ndarray] = []
    live: list[np.ndarray] = []
    grown = np.zeros(len(Part), dtype=np.int64)
    done = 0
    for passed, skipped in _passes(trace, stacks):
        before, last = passed[_MIDDLE : _MIDDLE + 2]
        step = trace.live_bytes[last.end - 1] - trace.live_bytes[before.end - 1]
        if not _alike(trace, before, last, step):
            return None
        rows.append(trace.rows[done : last.end])
        live.append(trace.live_bytes[done : last.end] + grown)
        for _ in range(skipped):
            grown = grown + step
            rows.append(trace.rows[last.rows])
            live.append(trace.live_bytes[last.rows] + grown)
        done = last.end
    rows.append(trace.rows[done:])
    live.append(trace.live_bytes[done:] + grown)
    return OpTrace(np.concatenate(rows), np.concatenate(live))


def _passes(trace: OpTrace, stacks: Sequence[Stack]) -> Iterator[tuple[list[_Stretch], int]]:
    """Each pass over a stack, forward or backward, layer by layer, and how many were skipped."""
    edges = [0, *(np.flatnonzero(np.diff(trace.layer)) + 1), len(trace.layer)]
    stretches = [
        _Stretch(int(trace.layer[start]), int(start), int(end))
        for start, end in pairwise(edges)
        if trace.layer[start] != NO_LAYER
    ]
    for first in range(0, len(stretches), _RUN):
        passed = stretches[first : first + _RUN]
        stack = passed[0].layer // _RUN
        numbers = list(range(stack * _RUN, (stack + 1) * _RUN))
        assert [each.layer for each in passed] in (numbers, numbers[::-1]), "layers run in order"
        yield passed, len(stacks[stack].skipped)


def _alike(trace: OpTrace, one: _Stretch, other: _Stretch, step: np.ndarray) -> bool:
    """Whether both cost the same, and memory differs by the same throughout."""
    same_costs = np.array_equal(trace.rows[one.rows, :-1], trace.rows[other.rows, :-1])
    return same_costs and bool(
        (trace.live_bytes[other.rows] - trace.live_bytes[one.rows] == step).all()
    )
