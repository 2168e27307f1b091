"""Remembered results of operations on shapes are those that PyTorch works out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prs_med.plan.meta_results import MetaResults

ATEN = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def told(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(told, result))
    memory = result.untyped_storage().nbytes()
    return result.shape, result.stride(), result.dtype, result.storage_offset(), memory


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "of a transposed tensor": (ATEN.add.Tensor, (meta(3, 5).t(), meta(5, 3))),
    "broadcast": (ATEN.mul.Tensor, (meta(3, 1), meta(1, 5))),
    "of a part": (ATEN.neg.default, (meta(4, 6)[:, ::2],)),
    "several": (ATEN.native_layer_norm.default, (meta(2, 4, 8), [8], meta(8), meta(8), 1e-5)),
    "of a list": (ATEN.cat.default, ([meta(2, 3), meta(4, 3)],)),
    "nothing": (ATEN.sum.default, (meta(0, 3),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_time_it_is_the_same_in_new_memory(name: str) -> None:
    func, arguments = CALLS[name]
    results = MetaResults()
    first, second = (results(func, arguments, {}) for _ in range(2))
    assert told(second) == told(first) == told(func(*arguments))
    assert second is not first


@given(
    st.sampled_from([torch.int64, torch.float32, torch.bfloat16]), st.permutations([2, 2.0, True])
)
def test_numbers_of_different_types_give_different_results(
    dtype: torch.dtype, numbers: list[float]
) -> None:
    results = MetaResults()
    for number in numbers:
        tensor = meta(3, dtype=dtype)
        found = results(ATEN.mul.Tensor, (tensor, number), {})
        assert told(found) == told(ATEN.mul.Tensor(tensor, number))


def test_views_and_changes_in_place_are_never_remembered() -> None:
    results, tensor = MetaResults(), meta(3, 4)
    for _ in range(2):
        view = results(ATEN.view.default, (tensor, [12]), {})
        assert view.untyped_storage()._cdata == tensor.untyped_storage()._cdata
        assert results(ATEN.add_.Tensor, (tensor, 1), {}) is tensor


def test_tensors_with_values_are_computed() -> None:
    results = MetaResults()
    for value in (1.0, 2.0):
        assert results(ATEN.add.Tensor, (torch.tensor(value), 1), {}).item() == value + 1
