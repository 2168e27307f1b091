"""``launch/eval.py compare`` as its users meet it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from prs_med.answering_config import EvaluationSettings
from prs_med.data.order import Rank
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.evaluation import evaluate
from prs_med.evaluate.open_questions import open_split
from prs_med.evaluate.results_files import read_results, write_results
from prs_med.evaluate.summary import VERSION
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
        (["plain", "changed", "--output_dir", "best/model.json"], "model.json is no folder"),
        (["plain", "changed", "--output_dir", "best/model.json/x"], "model.json is no folder"),
    ],
)
def test_mistakes_end_in_one_line(
    runs: Path, arguments: list[str], message: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(runs)
    output = [] if "--output_dir" in arguments else ["--output_dir", str(tmp_path / "out")]
    assert program.main(["compare", *arguments, *output]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_results_of_another_version_are_refused(runs: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(runs / "plain", tmp_path / "newer")
    file = tmp_path / "newer" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    assert program.main(["compare", str(runs / "plain"), str(tmp_path / "newer")]) == 2
    assert f"version 99; this program reads {VERSION}" in capsys.readouterr().err


@pytest.fixture
def without_masks(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "changed", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "masks")
    return tmp_path / "bare"


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return str(line)


def test_without_masks_there_are_no_pictures(
    runs: Path, without_masks: Path, tmp_path: Path, capsys
) -> None:
    arguments = ["compare", str(runs / "plain"), str(without_masks)]
    output = ["--output_dir", str(tmp_path / "out")]
    assert program.main([*arguments, *output]) == 2
    line = one_line(capsys)
    assert f"{without_masks / 'masks'}" in line
    assert "no such file; pictures need the masks of the evaluation, --pictures 0" in line
    assert not (tmp_path / "out").exists()
    assert program.main([*arguments, *output, "--pictures", "0"]) == 0


@pytest.mark.parametrize("damage", [b"", b"\x89PNG", b"no picture"])
def test_a_mask_that_cannot_be_read_is_one_line(
    runs: Path, without_masks: Path, tmp_path: Path, capsys, damage: bytes
) -> None:
    shutil.copytree(runs / "changed" / "masks", without_masks / "masks")
    for mask in (without_masks / "masks").iterdir():
        mask.write_bytes(damage)
    arguments = ["compare", str(runs / "plain"), str(without_masks)]
    assert program.main([*arguments, "--output_dir", str(tmp_path / "out")]) == 2
    assert "masks" in one_line(capsys)


def test_images_of_another_size_are_not_those_that_were_evaluated(
    runs: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(runs / "data", tmp_path / "data")
    for picture in (tmp_path / "data").rglob("*.png"):
        with Image.open(picture) as image:
            image.resize((31, 33), Image.Resampling.NEAREST).save(picture)
    arguments = ["compare", str(runs / "plain"), str(runs / "changed")]
    arguments += ["--data_root", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    assert program.main(arguments) == 2
    assert "31 x 33: it is not the image that was evaluated" in one_line(capsys)


def test_another_comparison_is_not_replaced(runs: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(runs / "changed", tmp_path / "third")
    output = ["--output_dir", str(tmp_path / "out"), "--pictures", "0"]
    first = ["compare", str(runs / "plain"), str(runs / "changed"), *output]
    second = ["compare", str(runs / "plain"), str(tmp_path / "third"), *output]
    assert program.main(first) == program.main(first) == 0
    before = (tmp_path / "out" / "comparison.json").read_text()
    capsys.readouterr()
    assert program.main(second) == 2
    line = one_line(capsys)
    assert f"holds what 'compare' made of evaluations {runs / 'plain'} (checkpoint " in line
    assert line.endswith("give another folder, or --overwrite to replace it")
    assert (tmp_path / "out" / "comparison.json").read_text() == before
    assert program.main([*second, "--overwrite"]) == 0
    assert (tmp_path / "out" / "comparison.json").read_text() != before


def test_failures_stand_beside_each_difference(runs: Path, tmp_path: Path) -> None:
    metrics, rows = read_results(runs / "plain")
    failed = {"error": "broken", "dice": 0.0, "hd95": None}
    rows[0].update(failed)
    write_results(tmp_path / "failing", metrics, rows)
    arguments = ["compare", str(runs / "plain"), str(tmp_path / "failing"), "--pictures", "0"]
    assert program.main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())["all"]
    (dice,), (distance,) = (compared[name].values() for name in ("dice", "hd95"))
    assert (dice["failures"], dice["failures_left_out"]) == ([0, 1], [0, 0])
    assert (distance["failures"], distance["failures_left_out"]) == ([0, 0], [0, 1])
    assert dice["difference"]["n"] + dice["left_out"] == len(rows)
    assert distance["difference"]["n"] + distance["left_out"] == len(rows)
    assert "0 / 1 failed" in (tmp_path / "out" / "comparison.html").read_text()


def test_an_evaluation_of_another_checkpoint_is_not_replaced(
    runs: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(runs / "best", tmp_path / "second")

    def evaluate_it(checkpoint: Path, *more: str) -> int:
        arguments = ["--data_root", str(runs / "data"), "--max_new_tokens", "1", "--pictures", "0"]
        return program.main(
            ["--checkpoint", str(checkpoint), *arguments, "--output_dir", str(tmp_path / "out"),
             *more]
        )  # fmt: skip

    assert evaluate_it(runs / "best") == 0
    before = (tmp_path / "out" / "per_sample.parquet").read_bytes()
    capsys.readouterr()
    for checkpoint, more in ((tmp_path / "second", []), (runs / "best", ["--split", "val"])):
        assert evaluate_it(checkpoint, *more) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"holds what 'eval' made of checkpoint {runs / 'best'}, weights " in line
        assert line.endswith("give another folder, or --overwrite to replace it")
    assert (tmp_path / "out" / "per_sample.parquet").read_bytes() == before
    assert evaluate_it(tmp_path / "second", "--overwrite") == 0
    metrics, _ = read_results(tmp_path / "out")
    assert metrics["evaluation"]["checkpoint"] == str(tmp_path / "second")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": {}}, "do not tell 'checkpoint'"),
        ({"evaluation": None}, "holds no finished evaluation"),
        ({}, "do not tell 'answer'"),
    ],
)
def test_results_that_lack_something_are_one_line(
    runs: Path, tmp_path: Path, capsys, change: dict, message: str
) -> None:
    metrics, rows = read_results(runs / "plain")
    if not change:
        for row in rows:
            del row["answer"]
    write_results(tmp_path / "odd", metrics | change, rows)
    assert program.main(["compare", str(runs / "plain"), str(tmp_path / "odd")]) == 2
    assert message in one_line(capsys)
