"""``launch/eval.py compare`` as its users meet it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prs_med.answering_config import EvaluationSettings
from prs_med.data.order import Rank
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.evaluation import evaluate
from prs_med.evaluate.open_questions import open_split
from prs_med.evaluate.results_files import read_results, write_results
from prs_med.programs import evaluate as program
from tests.unit.assembled import assemble


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three evaluations of one model: as it is, with changed masks, and of another split."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(small.data, root / "data")
    assemble(small).save(root / "best")
    plain = EvaluationSettings(
        checkpoint=str(root / "best"), data_root=str(root / "data"), max_new_tokens=4
    )
    for name, settings in {
        "plain": plain,
        "changed": replace(plain, largest_component=True, minimum_area=40),
        "other": replace(plain, split="val"),
    }.items():
        answerer = Answerer.load(settings)
        opened = open_split(settings, answerer.settings, strict=True)
        here = replace(settings, output_dir=str(root / name))
        result = evaluate(answerer, opened, here, Rank(0, 1))
        assert result is not None
        write_results(root / name, result.metrics, result.rows)
    return root


def test_two_runs(runs: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(runs)
    assert program.main(["compare", "plain", "changed", "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    plain, changed = (read_results(Path(name))[1] for name in ("plain", "changed"))
    difference = comparison["all"]["dice"]["changed"]["difference"]
    by_hand = [b["dice"] - a["dice"] for a, b in zip(plain, changed, strict=True)]
    assert any(by_hand)
    assert difference["mean"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert difference["n"] == len(plain)
    assert f"{difference['mean']:+.3f}" in printed
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/") >= 3


def test_pictures_are_left_out_where_the_data_has_moved(
    runs: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.chdir(runs)
    (runs / "data").rename(runs / "moved")
    try:
        arguments = ["compare", "plain", "changed", "--output_dir", str(tmp_path / "a")]
        assert program.main(arguments) == 0
        (message,) = (record.getMessage() for record in caplog.records)
        assert "pictures are missing" in message
        assert "--data_root" in message
        assert "data:image/" not in (tmp_path / "a" / "comparison.html").read_text()
        again = [*arguments[:-1], str(tmp_path / "b"), "--data_root", str(runs / "moved")]
        assert program.main(again) == 0
        assert "data:image/" in (tmp_path / "b" / "comparison.html").read_text()
    finally:
        (runs / "moved").rename(runs / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain"], "give two folders or more"),
        (["plain", "plain"], "each once"),
        (["plain", "best"], "best: holds no finished evaluation"),
        (["plain", "other"], "share no sample"),
        (["plain", "changed", "--pictures", "-1"], "--pictures -1: allowed is 0 or more"),
        (["--pictures", "1"], "give two folders or more"),
    ],
)
def test_mistakes_end_in_one_line(
    runs: Path, arguments: list[str], message: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(runs)
    assert program.main(["compare", *arguments, "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_results_of_another_version_are_refused(runs: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(runs / "plain", tmp_path / "newer")
    file = tmp_path / "newer" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    assert program.main(["compare", str(runs / "plain"), str(tmp_path / "newer")]) == 2
    assert "version 99; this program reads 1" in capsys.readouterr().err
