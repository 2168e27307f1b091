"""How ZeRO divides parameters among processes: elements per process, rounding included.

The rounding is DeepSpeed's (0.19): stages 1 and 2 cut each optimizer group as one vector, stage 3
cuts each parameter by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prs_med.plan.model_counts import ParameterList

_ALIGNMENT = 2
"""Partitions of stages 1 and 2 start at multiples of so many elements."""


def group_share(sizes: Sequence[int], processes: int) -> int:
    """Elements of one process of an optimizer group, in stages 1 and 2."""
    step = _ALIGNMENT * processes
    return -(-sum(sizes) // step) * step // processes


def trained_share(parameters: ParameterList, stage: int, processes: int) -> int:
    """Trained elements that one process keeps masters and moments of."""
    if stage == 3:
        return parameter_shares(parameters.trained, processes)
    groups = (parameters.trained_matrices, parameters.trained_vectors)
    return sum(group_share(group, processes) for group in groups)


def parameter_shares(sizes: Iterable[int], processes: int) -> int:
    """Elements of one process, in stage 3."""
    return sum(-(-size // processes) for size in sizes)


def persistent(sizes: Iterable[int], threshold: int) -> int:
    """Elements of small parameters, which stay whole on every process in stage 3."""
    return sum(size for size in sizes if size <= threshold)
