"""How changes of the code are named, made and counted when the tests themselves are tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutmut.configuration import reset_config

from tests.mutants.modules import CORE
from tests.mutants.mutant import (
    Change,
    Fate,
    change_between,
    concerns_a_check_alone,
    sample,
)
from tests.mutants.outside import changed_texts
from tests.mutants.record import Recorded, read_record, result_of

ROOT = Path(__file__).resolve().parents[2]
CHANGES = [Change("f", f"return {number}", f"return {number + 1}") for number in range(40)]


def test_a_change_is_what_differs() -> None:
    before, after = (
        "def f(x):\n    y = 2\n    return x + y\n",
        "def f(x):\n    y = 3\n    return x + y\n",
    )
    assert change_between("f", before, after) == Change("f", "y = 2", "y = 3")
    assert str(change_between("", before, after)) == "module: y = 2  ->  y = 3"


@pytest.mark.parametrize(
    ("was", "becomes", "check_alone"),
    [
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)", True),
        ("zip(a, b, strict=True)", "zip(a, b, )", True),
        ("zip(a, b, strict=True)", "zip(a, strict=True)", False),
        ("zip(a, b, strict=True)", "zip(b, a, strict=False)", False),
        ("f(a)", "f(b)", False),
    ],
)
def test_what_takes_only_a_check_away_is_no_mutant(
    was: str, becomes: str, check_alone: bool
) -> None:
    assert concerns_a_check_alone(Change("f", was, becomes)) is check_alone


@given(limit=st.integers(0, 50), left_out=st.integers(0, 39))
def test_a_sample_stays_what_it_was_when_other_code_changes(limit: int, left_out: int) -> None:
    chosen = [CHANGES[place] for place in sample(CHANGES, limit)]
    assert len(chosen) == min(limit, 40)
    assert chosen == sorted(chosen, key=CHANGES.index)
    fewer = CHANGES[:left_out] + CHANGES[left_out + 1 :]
    again = {fewer[place] for place in sample(fewer, limit)}
    assert set(chosen) - {CHANGES[left_out]} <= again


def test_timeouts_are_noticed_and_equivalent_changes_do_not_count() -> None:
    fates = list(
        zip(CHANGES[:4], [Fate.KILLED, Fate.TIMEOUT, Fate.SURVIVED, Fate.SURVIVED], strict=True)
    )
    result = result_of(fates, Recorded(0.0, {CHANGES[3]: "returns the same"}))
    assert (result.killed, result.timeouts, result.survivors) == (1, 1, [CHANGES[2]])
    assert result.score == 66.6  # Rounded down: two of three are not 66.7.


def test_a_record_comes_back(tmp_path: Path) -> None:
    (tmp_path / "record.yaml").write_text(
        "losses:\n  score: 98.5\n  equivalent:\n"
        "  - {where: f, was: return 1, becomes: return 2, why: the same}\n"
        "  - {was: A = 1, becomes: A = 2, why: only faster}\n"
        "order:\n  score: 100.0\n"
    )
    assert read_record(tmp_path / "record.yaml") == {
        "losses": Recorded(
            98.5,
            {
                Change("f", "return 1", "return 2"): "the same",
                Change("", "A = 1", "A = 2"): "only faster",
            },
        ),
        "order": Recorded(100.0),
    }


def test_the_record_is_about_modules_that_there_are() -> None:
    assert set(read_record()) <= set(CORE)
    for module in CORE.values():
        assert (ROOT / module.source).is_file(), module.source
        for test in module.test_files:
            assert (ROOT / test).is_file(), test


SOURCE = r'''"""Words: a|b."""

from functools import lru_cache

WIDTH = 0.2
_WORDS = r"top|upper|low"
_PATTERN = rf"(?:near|close\s+to)\s+{_WORDS}"


def plain(x):
    return x + 1


class Box:
    def size(self):
        return 2

    @property
    def twice(self):
        return self.size() * 2


@lru_cache(maxsize=4)
def kept(x):
    return x - 1
'''


def test_constants_patterns_and_decorated_functions_are_changed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.mutmut]\nsource_paths = ["."]\n')
    monkeypatch.chdir(tmp_path)
    reset_config()
    changes = dict(changed_texts(SOURCE))
    assert Change("", "WIDTH = 0.2", "WIDTH = 1.2") in changes
    assert Change("", '_WORDS = r"top|upper|low"', '_WORDS = r"top|low"') in changes
    assert Change("", '_WORDS = r"top|upper|low"', '_WORDS = r"top|upper"') in changes
    assert any("(?:near)" in change.becomes for change in changes)
    assert any(r"(?:close\s+to)" in change.becomes for change in changes)
    assert Change("twice", "return self.size() * 2", "return self.size() * 3") in changes
    assert Change("kept", "return x - 1", "return x + 1") in changes
    assert {change.where for change in changes} == {"", "twice", "kept"}
    for change, text in changes.items():
        compile(text, "changed", "exec")
        assert "@property" in text, change
        assert "@lru_cache(maxsize=4)" in text, change
        assert '"""Words: a|b."""' in text, change
