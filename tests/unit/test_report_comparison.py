"""Comparisons by hand, and what their page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prs_med.report.changed_samples import ChangedSample
from prs_med.report.comparison import METRICS, Run, compare_runs
from prs_med.report.comparison_report import verdict_on, write_comparison_report
from prs_med.report.measures import DICE, HD95
from tests.unit.html_reading import check_self_contained
from tests.unit.report_data import Pictures, evaluation_row, evaluation_rows, metrics_of

RESAMPLES = 60


def run(name: str, rows: list[dict[str, Any]], **evaluation: Any) -> Run:
    return Run(name, metrics_of(rows, **evaluation), rows)


def rows_with(dice: dict[int, float], **changes: Any) -> list[dict[str, Any]]:
    return [evaluation_row(number, dice=value, **changes) for number, value in dice.items()]


def test_differences_by_hand() -> None:
    first = rows_with({0: 0.5, 1: 0.6, 2: 0.7, 3: 0.8, 4: 0.9}, hd95=4.0)
    second = rows_with({0: 0.7, 1: 0.5, 2: 0.7, 3: 0.9, 9: 0.1}, hd95=1.5)
    second[3]["hd95"] = None
    result = compare_runs([run("a", first), run("b", second)], resamples=RESAMPLES)
    dice = result["all"]["dice"]["b"]
    assert dice["first"]["mean"] == pytest.approx(0.65)
    assert dice["second"]["mean"] == pytest.approx(0.70)
    assert dice["difference"]["mean"] == pytest.approx(0.05)
    assert (dice["difference"]["n"], dice["difference"]["groups"]) == (4, 2)
    assert dice["left_out"] == 2
    # Of two groups, images 0 (+0.2, -0.1) and 1 (0, +0.1), every draw has a mean of 0.05.
    assert dice["difference"]["low"] == pytest.approx(0.05)
    hd95 = result["all"]["hd95"]["b"]
    assert hd95["difference"]["mean"] == pytest.approx(-2.5)
    assert (hd95["difference"]["n"], hd95["left_out"]) == (3, 3)
    assert result["shared"] == 4
    assert result["samples"] == {"a": 5, "b": 5}
    ids = [row["row_id"] for row in first]
    better, worse = result["changed"]["b"]["better"], result["changed"]["b"]["worse"]
    assert [change["row_id"] for change in better] == [ids[0], ids[3]]
    assert [change["row_id"] for change in worse] == [ids[1]]
    assert worse[0]["change"] == pytest.approx(-0.1)
    assert (worse[0]["first"], worse[0]["second"]) == (0.6, 0.5)
    assert json.loads(json.dumps(result)) == result


def test_modalities_are_compared_apart() -> None:
    first, second = rows_with(dict.fromkeys(range(8), 0.5)), rows_with(dict.fromkeys(range(8), 0.5))
    second[1]["dice"] = 0.9
    result = compare_runs([run("a", first), run("b", second)], resamples=RESAMPLES)
    differences = {
        name: group["dice"]["b"]["difference"]["mean"]
        for name, group in result["modalities"].items()
    }
    name = first[1]["modality"]
    assert differences.pop(name) == pytest.approx(0.2)
    assert set(differences.values()) == {0.0}
    assert set(result["all"]) == set(METRICS)


def test_a_sample_has_the_modality_that_the_first_run_names() -> None:
    first, second = rows_with({0: 0.5, 1: 0.5}), rows_with({0: 0.7, 1: 0.5})
    second[0]["modality"] = first[1]["modality"]
    result = compare_runs([run("a", first), run("b", second)], resamples=RESAMPLES)
    mean = result["modalities"][first[0]["modality"]]["dice"]["b"]["difference"]["mean"]
    assert mean == pytest.approx(0.2)


def test_three_runs_are_compared_on_what_all_share() -> None:
    rows = {name: rows_with(dict.fromkeys(range(6), 0.5)) for name in "abc"}
    result = compare_runs(
        [run("a", rows["a"]), run("b", rows["b"][:4]), run("c", rows["c"][1:])],
        changed=1,
        resamples=RESAMPLES,
    )
    assert (result["baseline"], result["others"], result["shared"]) == ("a", ["b", "c"], 3)
    assert result["all"]["dice"]["c"]["difference"]["n"] == 3
    assert result["all"]["dice"]["c"]["left_out"] == 3
    assert result["changed"]["b"] == {"better": [], "worse": []}


def test_what_cannot_be_compared_is_refused() -> None:
    rows = rows_with({0: 0.5, 1: 0.6})
    other = rows_with({7: 0.5})
    twice = [*rows, rows[0]]
    with pytest.raises(ValueError, match="two runs or more"):
        compare_runs([run("a", rows)])
    with pytest.raises(ValueError, match="two runs are named 'a'"):
        compare_runs([run("a", rows), run("a", rows)])
    with pytest.raises(ValueError, match=r"run b: row_id 'phantom_mri.csv:2' appears twice"):
        compare_runs([run("a", rows), run("b", twice)])
    with pytest.raises(ValueError, match="a, b share no sample"):
        compare_runs([run("a", rows), run("b", other)])


@pytest.mark.parametrize(("key", "value"), [("answer", "There."), ("true_area", 5)])
def test_other_data_under_the_same_names_are_refused(key: str, value: Any) -> None:
    rows, changed = rows_with({0: 0.5, 1: 0.6}), rows_with({0: 0.5, 1: 0.6})
    changed[1][key] = value
    with pytest.raises(ValueError, match=rf"row_id 'phantom_ultrasound.csv:3': {key} is .* run b"):
        compare_runs([run("a", rows), run("b", changed)])


def test_a_failed_sample_without_an_area_is_the_same_data() -> None:
    rows, failed = rows_with({0: 0.5, 1: 0.6}), rows_with({0: 0.5, 1: 0.0})
    failed[1]["true_area"] = None
    assert compare_runs([run("a", rows), run("b", failed)], resamples=RESAMPLES)["shared"] == 2


def test_verdicts_need_an_interval_on_one_side_of_zero() -> None:
    def verdict(low: float | None, high: float | None, measure: Any) -> str:
        return verdict_on({"mean": 0.0, "low": low, "high": high}, measure)[0]

    assert verdict(0.01, 0.05, DICE) == "better"
    assert verdict(-0.05, -0.01, DICE) == "worse"
    assert verdict(0.01, 0.05, HD95) == "worse"
    assert verdict(-3.0, -1.0, HD95) == "better"
    assert verdict(-0.01, 0.05, DICE) == verdict(0.0, 0.05, DICE) == "no clear difference"
    assert verdict(None, None, DICE) == "n/a"


def test_the_page_shows_every_comparison(tmp_path: Path) -> None:
    first, second = evaluation_rows(24), evaluation_rows(24, seed=1)
    hostile = "<b>&|new</b>"
    runs = [run("old", first), run(hostile, second[:22], split="val", extra="x")]
    result = compare_runs(runs, changed=1, resamples=RESAMPLES)
    pictures = Pictures(tmp_path / "phantoms", count=8, size=48)
    by_id = [{row["row_id"]: row for row in one.rows} for one in runs]
    changed = [
        ChangedSample(
            found["row_id"],
            hostile,
            found["change"],
            [
                pictures.case(rows[found["row_id"]], "example", one.name)
                for one, rows in zip(runs, by_id, strict=True)
            ],
        )
        for way in ("better", "worse")
        for found in result["changed"][hostile][way]
    ]
    write_comparison_report(tmp_path, result, changed)
    assert json.loads((tmp_path / "comparison.json").read_text()) == result
    page = check_self_contained((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    (table,) = page.all("section", id="run-1")[0].all("table")
    rows = table.grid()
    assert len(rows) == 5 * len(METRICS)
    dice = result["all"]["dice"][hostile]
    texts = [cell.text for cell in rows[0]]
    assert texts[:3] == ["All", "Dice", f"{dice['difference']['mean']:+.3f}"]
    assert texts[4:] == [
        f"{dice['first']['mean']:.3f}",
        f"{dice['second']['mean']:.3f}",
        str(dice["difference"]["n"]),
        "2",
    ]
    low, high = dice["difference"]["low"], dice["difference"]["high"]
    assert rows[0][2].all("small")[0].text == f"{low:+.3f} to {high:+.3f}"
    warnings = [note.text for note in page.with_class("warning")]
    assert warnings == [
        f"The runs do not name the same split: test (old), val ({hostile}).",
        "Left out, because not every run has them: old 2.",
    ]
    cards = page.with_class("card")
    assert [len(card.all("img")) for card in cards] == [4, 4]
    captions = [caption.text for caption in cards[0].all("figcaption")]
    assert captions == ["Image", "Truth", "old", hostile]
    settings = {
        row[0].text: row for row in page.all("section", id="settings")[0].all("table")[0].grid()
    }
    assert [cell.text for cell in settings["split"][1:]] == ["test", "val", "yes"]
    assert [cell.text for cell in settings["extra"][1:]] == ["not named", "x", "yes"]
    markdown = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert f"{dice['difference']['mean']:+.3f} ({low:+.3f} to {high:+.3f})" in markdown
    assert "<b>" not in markdown.replace(r"\<b", "")
