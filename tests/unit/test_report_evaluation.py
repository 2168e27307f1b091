"""The page of an evaluation shows its numbers and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prs_med.report import numbers, sample_sections
from prs_med.report.evaluation_report import write_evaluation_report
from prs_med.report.measures import POSITION, SEGMENTATION, TEXT, Measure
from tests.unit.html_reading import Element, check_self_contained
from tests.unit.report_data import PROTOCOL, Pictures, evaluation_row, evaluation_rows, metrics_of


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return evaluation_rows(41)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("phantoms"), count=8, size=48)


@pytest.fixture(scope="module")
def written(
    rows: list[dict[str, Any]], pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_evaluation_report(folder, metrics_of(rows), rows, pictures.cases(rows, 2))
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Element:
    return check_self_contained((written / "report.html").read_text(encoding="utf-8"))


def section(page: Element, anchor: str) -> Element:
    (found,) = page.all("section", id=anchor)
    return found


def texts(cell: Element) -> list[str]:
    return [cell.text, *(line.text for line in cell.all("small"))]


def groups_of(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [*metrics["modalities"].items(), ("All", metrics["all"])]


def shown(summary: dict[str, Any], measure: Measure) -> list[str]:
    low, high = measure.show(summary["low"]), measure.show(summary["high"])
    spread = f"sd {measure.show(summary['sd'])}, {of_how_many(summary)}"
    return [measure.show(summary["mean"]), f"{low} to {high}", spread, *left_out(summary)]


def of_how_many(summary: dict[str, Any]) -> str:
    failed = f", {summary['failures']} failed" if summary["failures"] else ""
    return f"n {summary['n']}{failed}"


def left_out(summary: dict[str, Any]) -> list[str]:
    failed = f", {summary['failures_left_out']} failed" if summary["failures_left_out"] else ""
    return [f"left out {summary['left_out']}{failed}"] if summary["left_out"] else []


def test_headline_tells_means_intervals_and_numbers(page: Element, rows: list) -> None:
    everything = metrics_of(rows)["all"]
    tiles = {tile.all("h3")[0].text: tile for tile in page.with_class("tile")}
    for name, summary, show in (
        ("Dice", everything["segmentation"]["dice"], numbers.score),
        ("IoU", everything["segmentation"]["iou"], numbers.score),
        ("Zone accuracy", everything["position"]["zone_accuracy"], numbers.percent),
        (
            "Answer agrees with mask",
            everything["position"]["answer_agrees_with_mask"],
            numbers.percent,
        ),
    ):
        assert tiles[name].with_class("value")[0].text == show(summary["mean"])
        assert [line.text for line in tiles[name].with_class("detail")] == [
            f"{show(summary['low'])} to {show(summary['high'])}",
            f"95 % interval, {of_how_many(summary)} in {summary['groups']} groups",
            *left_out(summary),
        ]


@pytest.mark.parametrize(
    ("anchor", "part", "measures", "skipped"),
    [
        ("masks", "segmentation", SEGMENTATION, 1),
        ("position", "position", POSITION, 1),
        ("text", "text", TEXT, 2),
    ],
)
def test_tables_by_modality_show_every_summary(
    page: Element, rows: list, anchor: str, part: str, measures: tuple, skipped: int
) -> None:
    metrics = metrics_of(rows)
    table = section(page, anchor).all("table")[0].grid()
    assert len(table) == 5
    for cells, (name, group) in zip(table, groups_of(metrics), strict=True):
        assert cells[0].text == name
        assert texts(cells[0])[1:3] == [
            f"{group['samples']} questions",
            f"in {group['groups']} groups",
        ]
        assert texts(cells[0])[3:] == (["1 failed"] if group["failures"] else [])
        for cell, measure in zip(cells[skipped:], measures, strict=True):
            summary = group[part][measure.key]
            assert texts(cell) == shown(summary, measure)
            assert cell.attributes["data-sort"] == repr(summary["mean"])


def test_interval_charts_show_every_modality(page: Element, rows: list) -> None:
    metrics = metrics_of(rows)
    figures = section(page, "masks").all("figure")
    shown_measures = (SEGMENTATION[0], SEGMENTATION[1], SEGMENTATION[4])
    for figure, measure in zip(figures, shown_measures, strict=True):
        for name, group in groups_of(metrics):
            mean, interval, *_ = shown(group["segmentation"][measure.key], measure)
            words = figure.all("svg")[0].attributes["aria-label"]
            assert f"{name} {mean}, 95 % interval {interval}" in words


def test_confusion_shows_every_count(page: Element, rows: list) -> None:
    confusion = metrics_of(rows)["all"]["position"]["confusion"]
    table = section(page, "position").all("table")[1]
    heads = [head.text for head in table.all("thead")[0].all("th")]
    assert heads == ["True zone", *confusion["columns"]]
    for cells, zone, counts in zip(
        table.grid(), confusion["rows"], confusion["counts"], strict=True
    ):
        assert cells[0].text == zone
        for cell, column, count in zip(cells[1:], confusion["columns"], counts, strict=True):
            assert cell.text == (f"{count} ✓" if column == zone else str(count))
            assert texts(cell)[1] == numbers.percent(count / sum(counts))
            shade = f"heat-{round(10 * count / sum(counts))}"
            assert shade in (cell.attributes["class"] or "").split()


def test_other_tables_show_their_numbers(page: Element, rows: list) -> None:
    metrics = metrics_of(rows)
    protocol = section(page, "protocol")
    assert "not Dice and IoU at 0.5" in protocol.whole_text
    (table,) = protocol.all("table")
    heads = [button.text for button in table.all("button")]
    assert heads[1] == "n"
    assert set(heads[2:]) == set(PROTOCOL)
    for cells, (_, group) in zip(table.grid(), groups_of(metrics), strict=True):
        expected = [numbers.score(group["published_protocol"][head]) for head in heads[2:]]
        assert [cell.text for cell in cells[2:]] == expected
        failures = ["1 failed"] if group["failures"] else []
        assert texts(cells[1]) == [str(group["samples"]), *failures]
    judges = section(page, "judges").all("table")[0].grid()
    assert [cell.text for cell in judges[0]] == [
        *("Qwen/Qwen2.5-7B-Instruct", "place", "All", "85.0 %", "85", "12", "3", "1")
    ]
    assert len(judges) == 10
    calibration = section(page, "calibration")
    pixels = sum(point["pixels"] for point in metrics["all"]["calibration"]["curve"])
    assert [cell.text for cell in calibration.all("table")[0].grid()[-1]] == [
        *("All", "0.012", numbers.count(pixels))
    ]
    assert len(calibration.with_class("dot")) == 5 * 15


def test_what_was_evaluated_is_said(page: Element, rows: list) -> None:
    facts = {
        item.all("dt")[0].text: item.all("dd")[0].text
        for item in section(page, "evaluated").with_class("facts")[0].children
    }
    metrics = metrics_of(rows)
    assert len(facts) == len(metrics["evaluation"]) + len(metrics["speed"])
    assert facts["checkpoint"] == "runs/prs-med/best"
    assert facts["load 4bit"] == "no"
    assert facts["post processing"] == "none"
    assert facts["questions per second"] == "23.5"


def test_failures_are_listed_and_counted(page: Element, rows: list) -> None:
    part = section(page, "failures")
    assert part.all("h2")[0].text == "Failures (1)"
    assert "count as 0" in part.whole_text
    (item,) = part.all("li")
    assert item.all("strong")[0].text == rows[-1]["row_id"]
    assert item.all("span")[0].text == rows[-1]["error"]


def test_samples_are_all_in_the_table(page: Element, rows: list) -> None:
    table = section(page, "samples").all("table")[0].grid()
    for cells, row in zip(table, rows, strict=True):
        shown = [cell.text for cell in cells]
        assert shown[:2] == [row["row_id"], row["modality"]]
        assert shown[2:4] == [numbers.score(row["dice"]), numbers.score(row["iou"])]
        assert shown[4] == numbers.pixels(row["hd95"])
        assert shown[6:9] == [
            row[key] or "n/a" for key in ("true_zone", "answered_zone", "mask_zone")
        ]
        assert shown[9] == ("yes" if row["zone_correct"] else "no")
        assert shown[11:] == [
            *(row[key] for key in ("question", "answer", "predicted_answer")),
            row["error"] or "",
        ]


def test_cases_show_three_pictures_each(page: Element) -> None:
    cards = section(page, "cases").with_class("card")
    badges = [card.with_class("badge")[0].text for card in cards]
    assert badges == ["Best", "Best", "Median", "Median", "Worst", "Worst", "Failed"]
    assert [len(card.all("img")) for card in cards] == [3, 3, 3, 3, 3, 3, 2]


def test_histograms_count_every_question(page: Element, rows: list) -> None:
    figures = section(page, "distribution").all("figure")
    counts = [
        sum(int(bar.children[0].text.split(": ")[1].split()[0]) for bar in one.with_class("bar"))
        for one in figures
    ]
    assert counts[0] == len(rows)
    assert sum(counts[1:]) == len(rows)


def test_markdown_has_the_same_numbers(written: Path, rows: list) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    metrics = metrics_of(rows)
    for _, group in groups_of(metrics):
        for measure in SEGMENTATION:
            parts = shown(group["segmentation"][measure.key], measure)
            assert f"{parts[0]} ({'; '.join(parts[1:])})" in text
    assert "data:" not in text
    assert f"**{rows[-1]['row_id']}**".replace("_", r"\_") in text


def test_nothing_measured_is_said_to_be_so(tmp_path: Path) -> None:
    metrics = metrics_of([])
    metrics["speed"]["questions_per_second"] = None
    write_evaluation_report(tmp_path, metrics, [], [])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = check_self_contained(text)
    for tile in page.with_class("tile"):
        assert tile.with_class("value")[0].text == "n/a"
        assert tile.with_class("detail")[0].text
    assert page.all("section", id="judges") == []
    for anchor, reason in (
        ("text", "no reference answers to compare with"),
        ("position", "No confusion of zones"),
        ("calibration", "no pixels were scored"),
        ("distribution", "No questions"),
        ("cases", "No pictures"),
        ("failures", "Every question was answered"),
    ):
        assert reason in section(page, anchor).whole_text
    assert "None" not in page.all("main")[0].whole_text
    assert "nan" not in (tmp_path / "report.md").read_text(encoding="utf-8").split()


def test_data_without_answers_say_why_words_have_no_score(tmp_path: Path) -> None:
    nothing = ("answer", "bleu", "rouge1", "rouge2", "rouge_l", "meteor_exact_stem")
    without = dict.fromkeys((*nothing, "hd95", "surface_distance", "near_center_correct"))
    rows = [evaluation_row(number, **without) for number in range(6)]
    metrics = metrics_of(rows, post_processing="largest part")
    write_evaluation_report(tmp_path, metrics, rows, [])
    page = check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    *_, everything = section(page, "text").all("table")[0].grid()
    assert texts(everything[2]) == ["n/a", "no reference answers to compare with", "left out 6"]
    *_, masks = section(page, "masks").all("table")[0].grid()
    assert texts(masks[5]) == ["n/a", "needs an area in both masks", "left out 6"]
    assert "largest part" in section(page, "evaluated").with_class("note")[0].text
    samples = section(page, "samples").all("table")[0].grid()
    assert samples[0][12].text == "n/a"


def test_one_group_has_no_interval(tmp_path: Path) -> None:
    rows = [evaluation_row(number, group="patient 1") for number in range(3)]
    write_evaluation_report(tmp_path, metrics_of(rows), rows, [])
    page = check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    details = page.with_class("tile")[0].with_class("detail")
    assert details[0].text == "no interval: fewer than two groups"
    assert details[1].text == "n 3 in 1 group"


def test_long_lists_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_sections, "LIMIT", 3)
    rows = [evaluation_row(number, error="torn" if number < 5 else None) for number in range(9)]
    write_evaluation_report(tmp_path, metrics_of(rows), rows, [])
    page = check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(section(page, "samples").all("table")[0].grid()) == 3
    samples = section(page, "samples").with_class("note")[0].text
    assert samples == "The first 3 of 9 samples are shown; all are in per_sample.parquet."
    assert "first 3 of 5 failures" in section(page, "failures").with_class("note")[0].text
    assert len(section(page, "failures").all("li")) == 3


@pytest.mark.parametrize("text", ["<script>x</script>", 'a"b|c', "病" * 2000])
def test_texts_of_data_and_model_are_escaped(tmp_path: Path, pictures: Pictures, text: str) -> None:
    texts = ("row_id", "modality", "question", "answer", "predicted_answer", "error", "group")
    row = evaluation_row(0, **dict.fromkeys(texts, text))
    case = pictures.case(evaluation_row(0, **dict.fromkeys(texts[2:], text)), "failed", text)
    metrics = metrics_of([row], checkpoint=text, data=text, split=text, post_processing=text)
    write_evaluation_report(tmp_path, metrics, [row], [case])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<script") == 1
    page = check_self_contained(html)
    assert section(page, "samples").all("table")[0].grid()[0][0].text == text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown.replace(r"\<script", "")
