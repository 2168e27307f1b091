"""Benchmarks that take minutes refuse what they cannot do before they begin."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import growth, startup


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cases", "zero2,4bit"], "--cases: 4bit: allowed are zero2, zero3, zero2_4bit"),
        (["--files", "hot"], "--files: hot: allowed are cold, warm"),
    ],
)
def test_wrong_names(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        startup.parser().parse_args(words)
    assert told in capsys.readouterr().err
    assert startup.parser().parse_args(["--cases", "zero3"]).cases == ["zero3"]


def test_a_plot_without_what_draws_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["growth.py", "--plot", "x.svg"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "pip install -r benchmarks/requirements-plots.txt" in capsys.readouterr().err
