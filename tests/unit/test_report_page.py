"""Pages and Markdown say what they are told to, whatever is in the texts."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from prs_med.report.content import (
    Block,
    Card,
    Cards,
    Cell,
    Column,
    Facts,
    Figure,
    Figures,
    Listing,
    Note,
    Page,
    Picture,
    Section,
    Table,
    Tile,
    Tiles,
)
from prs_med.report.drafted_file import write_whole
from prs_med.report.markdown import inline, markdown_page
from prs_med.report.page import html_page
from tests.unit.html_reading import Element, check_self_contained

HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title><img src=http://evil.example/x onerror=alert(1)>",
    "\" onmouseover='alert(1)' x=\"",
    "{{ 7 * 7 }} {% raw %}",
    "a|b|c\n| d | e |",
    "w" * 3000,
    "Läsion 病変 \u202e \U0001f9e0 a\u0301",
    "]]> --> <!-- &lt;b&gt; &amp;",
    "![x](http://evil.example/x.png) [y](javascript:alert(1)) <http://evil.example>",
    "`code` *bold* _it_ # head\r\n> quote",
)


def everything(text: str) -> list[Block]:
    """One block of each kind with the text wherever a text can be."""
    picture = Picture(text, "data:image/webp;base64,AAAA", 4, 3, text)
    card = Card(text, text, "best", text, [picture], [(text, text)], [(text, text)], text)
    columns = (Column(text, text, "name"), Column("Dice"))
    return [
        Table(text, columns, [(Cell(text, (text,), text), Cell("0.500", sort=0.5))]),
        Facts([(text, text)]),
        Note(text, "warning"),
        Listing([(text, text)]),
        Tiles([Tile(text, text, (text,), text)]),
        Figures([Figure(text, Markup("<svg></svg>"), text)]),
        Cards([card]),
    ]


def page_of(blocks: list[Block], title: str = "Title", refresh: int | None = None) -> Page:
    return Page("Kind", title, title, [Section("part", title, title, blocks)], refresh)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_are_shown_and_never_obeyed(text: str) -> None:
    html = html_page(page_of(everything(text), text))
    page = check_self_contained(html)
    assert html.count("<script") == 1
    assert html.count("<style") == 1
    shown = re.sub(r"\s+", " ", text.replace("\r\n", "\n")).strip()
    assert re.sub(r"\s+", " ", page.all("h1")[0].text) == shown
    for name in ("td", "dd", "dt", "li", "figcaption", "h3"):
        assert page.all(name), name
    assert [image.attributes["alt"] for image in page.all("img")] == [text]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_keeps_its_columns_and_lines(text: str) -> None:
    table = Table(
        "Caption",
        (Column(text), Column("b"), Column("c")),
        [(Cell(text, (text, text)), Cell("1"), Cell("2"))],
    )
    lines = markdown_page(page_of([table], "T")).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert not re.search(r"(?<!\\)[<`\[]", rows[2])
    assert "://" not in rows[2].replace(r"\://", "")


@given(st.text(max_size=60))
def test_markdown_texts_are_one_line_without_marks(text: str) -> None:
    line = inline(text)
    assert "\n" not in line
    assert "\r" not in line
    without_escapes = re.sub(r"\\.", "", line)
    assert not set("<>[]|`*_#") & set(without_escapes)


@given(st.text(max_size=60))
def test_pages_hold_any_text(text: str) -> None:
    check_self_contained(html_page(page_of(everything(text), text)))


def test_nothing_may_be_loaded_and_only_our_own_style_and_script_run() -> None:
    page = check_self_contained(html_page(page_of([])))
    (policy,) = (
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for kind in ("style", "script"):
        source = "".join(page.all(kind)[0].texts)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_only_pages_that_go_on_refresh() -> None:
    def refreshed(seconds: int | None) -> list[Element]:
        page = check_self_contained(html_page(page_of([], refresh=seconds)))
        return page.all("meta", **{"http-equiv": "refresh"})

    assert [meta.attributes["content"] for meta in refreshed(30)] == ["30"]
    assert refreshed(None) == []


def test_cells_carry_what_they_are_sorted_by() -> None:
    table = Table(
        "Numbers",
        (Column("Name", kind="name"), Column("Dice")),
        [(Cell("a", sort="a"), Cell("0.123", sort=0.12345)), (Cell("b", sort="b"), Cell("n/a"))],
        footer=[(Cell("All", sort="All"), Cell("0.200", heat=0.26))],
    )
    page = check_self_contained(html_page(page_of([table])))
    (name, dice), (_, missing), (_, total) = page.all("table")[0].grid()
    assert (name.name, name.attributes["scope"]) == ("th", "row")
    assert "data-sort" not in name.attributes
    assert dice.attributes["data-sort"] == "0.12345"
    assert "data-missing" in missing.attributes
    assert "heat-3" in (total.attributes["class"] or "")
    assert [button.text for button in page.all("button")] == ["Name", "Dice"]


def test_missing_pictures_are_said_to_be_missing() -> None:
    card = Card("a", "Failed", "failed", "", [Picture("Truth", None, 5, 5, "no mask")], [], [])
    page = check_self_contained(html_page(page_of([Cards([card])])))
    assert page.all("img") == []
    (place,) = page.with_class("no-picture")
    assert (place.text, place.attributes["aria-label"]) == ("none", "no mask")


def test_files_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_whole(path, "first")
    write_whole(path, "second \ud800")
    assert path.read_text(encoding="utf-8") == "second ?"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
