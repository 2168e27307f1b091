"""benchmarks/engines.py times what it says, in processes that DeepSpeed starts."""

from __future__ import annotations

import sys

import pytest

from benchmarks import engines
from tests.programs import launchers

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("name", engines.CONFIGS)
def test_both_ways_are_timed_in_each_round(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(launchers() / "python"))
    found = engines.one_run(processes=2, name=name, batch=1, rounds=2)
    assert found.keys() == {"plain", "engines"}
    for milliseconds in found.values():
        assert len(milliseconds) == 2
        assert min(milliseconds) > 0
