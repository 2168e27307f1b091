"""Results of operations on tensors without values, remembered.

A layer is like the one before it, so that most operations have been asked for before, with the same
shapes. PyTorch works out the result of many in Python, at 1 ms for each; a tensor of a known shape
takes microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Shape:
    """What there is to know of a tensor without values that has its memory for itself."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """A new one."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


class MetaResults:
    """Calls operations, or makes again what they gave for such tensors before."""

    def __init__(self) -> None:
        self._known: dict[Any, _Shape | tuple[_Shape, ...]] = {}

    def __call__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The same as ``func(*args, **kwargs)``."""
        key = _key(func, args, kwargs)
        known = self._known.get(key) if key is not None else None
        if known is not None:
            if isinstance(known, tuple):
                return tuple(shape.tensor() for shape in known)
            return known.tensor()
        result = func(*args, **kwargs)
        if key is not None and (shape := _shape(result)) is not None:
            self._known[key] = shape
        return result


def _key(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Equal for calls with equal results; None for what may change its arguments, share memory
    with them, or look at values."""
    if not _gives_new_memory(func):
        return None
    try:
        key = (func, _described(args), tuple((k, _described(v)) for k, v in kwargs.items()))
        hash(key)
    except (TypeError, ValueError):
        return None
    return key


def _gives_new_memory(func: Any) -> bool:
    schema = func._schema
    return not any(each.alias_info for each in (*schema.arguments, *schema.returns))


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise ValueError("it has values")
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    # 1, 1.0 and True are equal, and give results of different types.
    return (type(value), value)


def _shape(result: Any) -> _Shape | tuple[_Shape, ...] | None:
    """How to make a result again; None if that would be another one."""
    if isinstance(result, tuple):
        shapes = [_shape(each) for each in result]
        return (
            tuple(s for s in shapes if isinstance(s, _Shape))
            if all(isinstance(s, _Shape) for s in shapes)
            else None
        )
    if not isinstance(result, Tensor) or not result.is_meta or result.storage_offset():
        return None
    shape = _Shape(tuple(result.shape), result.stride(), result.dtype)
    same_memory = shape.tensor().untyped_storage().nbytes() == result.untyped_storage().nbytes()
    return shape if same_memory else None
