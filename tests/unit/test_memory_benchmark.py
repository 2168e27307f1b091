"""How benchmarks/memory.py looks for the largest batch, and what it compares it with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.memory import counted, largest_that_fits, planned


@given(st.integers(0, 120), st.integers(0, 90), st.integers(1, 90))
def test_the_largest_is_found_in_few_trials(true: int, start: int, most: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= true

    assert largest_that_fits(fits, min(start, most), most) == min(true, most)
    assert all(1 <= batch <= most for batch in tried)
    assert len(tried) == len(set(tried)) <= 16


def test_plans_are_those_of_one_process_without_allowances() -> None:
    found = list(planned("nf4"))
    assert [each.checkpointing.title for each in found] == ["no", "encoder", "both"]
    memory = found[0].memory(1).at(4)
    allowances = [size for name, size in memory.parts.items() if name.startswith("allowance")]
    assert len(allowances) == 2
    assert counted(memory) + sum(allowances) == pytest.approx(memory.total, abs=1)
