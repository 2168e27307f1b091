"""Cells that a spreadsheet must not calculate, and the way back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.evaluate.inference import COLUMNS, _write_csv
from prs_med.evaluate.spreadsheet_text import as_plain_text, original_text

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.mark.parametrize(
    "text",
    [*DANGEROUS, '=HYPERLINK("http://x",A1)', "@SUM(A1)", "-2+3", " =1", "\t=1", "'=1", "\n"],
)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    assert as_plain_text(text) == f"'{text}"
    assert original_text(as_plain_text(text)) == text


@pytest.mark.parametrize("text", ["", "Top left.", "a=b", "'quoted'", "1", " left", "/data/a.png"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert as_plain_text(text) == original_text(text) == text


texts = st.text(st.sampled_from([*DANGEROUS, "'", " ", "a", "1"]), max_size=6) | st.text(max_size=9)


@given(texts)
def test_every_text_comes_back_and_none_is_dangerous(text: str) -> None:
    cell = as_plain_text(text)
    assert not cell.lstrip(" ").startswith(DANGEROUS)
    assert original_text(cell) == text


def test_results_are_written_so_whatever_names_and_answers_are(tmp_path: Path) -> None:
    """Also a file name that is no text."""
    row = dict.fromkeys(COLUMNS, "") | {
        "index": 3,
        "image_path": "=cmd.png",
        "pred_answer": '@left, "top"',
        "error": "\udcff.png: no such file",
    }
    _write_csv(tmp_path / "results.csv", [row])
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        (found,) = csv.DictReader(file)
    assert (found["index"], found["image_path"]) == ("3", "'=cmd.png")
    assert original_text(found["pred_answer"]) == '@left, "top"'
    assert found["error"] == "\\udcff.png: no such file"
