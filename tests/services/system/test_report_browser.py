"""Report pages in a real browser: they load nothing, complain about nothing, and fit the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prs_med.report.changed_samples import ChangedSample
from prs_med.report.comparison import Run, compare_runs
from prs_med.report.comparison_report import write_comparison_report
from prs_med.report.content import Note, Page, Section
from prs_med.report.evaluation_report import write_evaluation_report
from prs_med.report.page import html_page
from prs_med.report.training_report import write_training_report
from tests.services.packages import need
from tests.services.system.chromium import Chromium, install_chromium
from tests.unit.report_data import Pictures, evaluation_row, evaluation_rows, metrics_of

DESKTOP, PHONE = 1280, 390
HOSTILE = (
    "<script>document.title = 'taken'</script><img src=https://evil.example/x onerror=alert(1)>"
)
LONG = "w" * 400


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need(install_chromium(), "Chromium is not installed")
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every sort of page, with usual texts and with those that pages break on."""
    folder = tmp_path_factory.mktemp("pages")
    pictures = Pictures(folder / "phantoms", count=8, size=96)
    texts = ("modality", "question", "answer", "predicted_answer")
    rows = [
        *evaluation_rows(40),
        evaluation_row(40, row_id=HOSTILE, error=HOSTILE, **dict.fromkeys(texts, HOSTILE)),
        evaluation_row(41, row_id=LONG, error=LONG, **dict.fromkeys(texts, LONG)),
    ]
    shown = pictures.cases(rows[:40], 1)
    long_name = pictures.case(rows[4], "example", LONG)
    metrics = metrics_of(rows, checkpoint=LONG, data=HOSTILE, note=LONG)
    write_evaluation_report(folder / "evaluation", metrics, rows, [*shown, long_name])
    runs = [
        Run("old", metrics, rows),
        Run(LONG, metrics_of(rows), rows),
        Run(HOSTILE, metrics_of(rows), evaluation_rows(40, seed=3)),
    ]
    for number, row in enumerate(runs[2].rows):
        row["true_area"] = rows[number]["true_area"]
    changed = ChangedSample(
        LONG, LONG, 0.2, [pictures.case(rows[0], "example", run.name) for run in runs]
    )
    comparison = compare_runs(runs, resamples=20)
    write_comparison_report(folder / "comparison", comparison, [changed])
    write_training_report(
        folder / "training",
        training_rows(),
        {"save_dir": LONG, LONG: HOSTILE, "lora_rank": 16},
        {"state": "running", "step": 0, "reason": ""},
        [*shown, long_name],
    )
    return {
        "evaluation": folder / "evaluation" / "report.html",
        "comparison": folder / "comparison" / "comparison.html",
        "training": folder / "training" / "report.html",
    }


def training_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(10, 3000, 10):
        loss = None if step == 500 else 5 / step**0.5
        rows.append({"step": step, "epoch": step / 600, "loss": loss, "loss_txt": 1 / step})
        rows[-1] |= {"grad_norm": 1 + step % 7, "learning_rate": 1e-4, "samples_per_s": 30.0}
        if step % 600 == 0:
            rows.append({"step": step, "val_dice": 1 - 100 / step, "val_iou": 1 - 150 / step})
    return rows


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["evaluation", "comparison", "training"])
def test_pages_are_quiet_and_fit(
    chromium: Chromium, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    with chromium.open(pages[name], width=width, height=900, dark=dark) as tab:
        assert tab.complaints() == []
        assert tab.requested() == [pages[name].as_uri()]
        assert tab.value_of("document.documentElement.scrollWidth <= window.innerWidth")
        assert tab.value_of("window.innerWidth") == width
        assert tab.value_of("document.title") != "taken"
        loaded = "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
        assert tab.value_of(f"document.images.length > 0 && {loaded}")
        background = tab.value_of("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, background[4:-1].split(",")))
        assert (brightness < 200) == dark


def column(index: int) -> str:
    """The texts of a column of the table of samples."""
    cells = f"#samples tbody tr > :nth-child({index})"
    return f"[...document.querySelectorAll({cells!r})].map(cell => cell.firstChild.data)"


def test_a_click_sorts_numbers_and_a_second_one_turns_them_round(
    chromium: Chromium, pages: dict[str, Path]
) -> None:
    hd95 = "#samples thead th:nth-child(5)"
    with chromium.open(pages["evaluation"], width=DESKTOP, height=900, dark=False) as tab:
        as_written = tab.value_of(column(5))
        numbers = sorted((text for text in as_written if text != "n/a"), key=as_pixels)
        assert len(numbers) == len(as_written) - 1
        tab.click(f"{hd95} button")
        assert tab.value_of(column(5)) == [*numbers, "n/a"]
        assert tab.value_of(f"document.querySelector('{hd95}').ariaSort") == "ascending"
        tab.click(f"{hd95} button")
        assert tab.value_of(column(5)) == [*reversed(numbers), "n/a"]
        assert tab.value_of(f"document.querySelector('{hd95}').ariaSort") == "descending"
        tab.value_of("document.querySelector('#samples thead th:nth-child(2) button').focus()")
        tab.press_enter()
        assert tab.value_of(in_order_of_words(column(2)))
        assert tab.value_of("document.querySelectorAll('#samples th[aria-sort]').length") == 1
        assert tab.complaints() == []


def as_pixels(text: str) -> float:
    return float(text.removesuffix(" px"))


def in_order_of_words(texts: str) -> str:
    """Whether a list is in the order of the browser's language."""
    in_place = "(text, place) => !place || texts[place - 1].localeCompare(text) <= 0"
    return f"(texts => texts.every({in_place}))({texts})"


def test_the_row_of_all_stays_last(chromium: Chromium, pages: dict[str, Path]) -> None:
    with chromium.open(pages["evaluation"], width=PHONE, height=900, dark=True) as tab:
        tab.click("#masks thead th:nth-child(1) button")
        tab.click("#masks thead th:nth-child(1) button")
        names = tab.value_of(
            "[...document.querySelectorAll('#masks tr > th:first-child')]"
            ".slice(1).map(cell => cell.firstChild.data)"
        )
        assert names[-1] == "All"
        assert tab.value_of("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_policy_stops_what_escaping_would_have_let_through(
    chromium: Chromium, tmp_path: Path
) -> None:
    page = Page("Test", "Quiet", "", [Section("a", "A", "", [Note("MARK")])])
    foreign = "<img src='https://evil.example/x'><script>document.title = 'taken'</script>"
    path = tmp_path / "page.html"
    path.write_text(html_page(page).replace("MARK", foreign), encoding="utf-8")
    with chromium.open(path, width=DESKTOP, height=900, dark=False) as tab:
        assert tab.value_of("document.title") == "Quiet"
        assert len(tab.complaints()) >= 2
        assert not any("evil" in address for address in tab.loaded())
