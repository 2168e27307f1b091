"""A report as Markdown, to be read in a terminal, a diff or a pull request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prs_med.report.content import (
    Block,
    Cards,
    Cell,
    Facts,
    Figures,
    Listing,
    Note,
    Page,
    Section,
    Table,
    Tiles,
)

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\s]+")


def markdown_page(page: Page) -> str:
    """The whole report without its pictures; every foreign text is escaped."""
    lines = [f"# {inline(page.title)}", "", inline(page.subtitle), ""]
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def inline(text: str) -> str:
    """One line that Markdown shows as it is, with no mark-up, link or HTML in it."""
    escaped = _MARKS.sub(r"\\\1", _CONTROL.sub(" ", text).strip())
    # A bare address would become a link.
    return escaped.replace("://", r"\://").replace("www.", r"www\.")


def _section(section: Section) -> Iterator[str]:
    yield f"## {inline(section.title)}"
    yield ""
    if section.explanation:
        yield inline(section.explanation)
        yield ""
    for block in section.blocks:
        yield from _block(block)
        yield ""


def _block(block: Block) -> Iterator[str]:
    render: dict[str, Callable[[Any], Iterator[str]]] = {
        Table.block: _table,
        Facts.block: _facts,
        Note.block: _note,
        Listing.block: _listing,
        Tiles.block: _tiles,
        Figures.block: _figures,
        Cards.block: _cards,
    }
    return render[block.block](block)


def _table(table: Table) -> Iterator[str]:
    yield f"**{inline(table.caption)}**"
    yield ""
    yield from _grid(
        [column.name for column in table.columns],
        [[_cell_text(cell) for cell in row] for row in (*table.rows, *table.footer)],
        numeric=[column.kind == "number" for column in table.columns],
    )


def _cell_text(cell: Cell) -> str:
    return f"{cell.text} ({'; '.join(cell.detail)})" if cell.detail else cell.text


def _facts(facts: Facts) -> Iterator[str]:
    yield from _grid(["", ""], [list(item) for item in facts.items], numeric=[False, False])


def _tiles(tiles: Tiles) -> Iterator[str]:
    yield from _grid(
        ["", "", ""],
        [[tile.name, tile.value, "; ".join(tile.details)] for tile in tiles.tiles],
        numeric=[False, True, False],
    )


def _grid(
    names: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> Iterator[str]:
    yield f"| {' | '.join(map(inline, names))} |"
    yield f"|{'|'.join('---:' if right else '---' for right in numeric)}|"
    for row in rows:
        yield f"| {' | '.join(map(inline, row))} |"


def _note(note: Note) -> Iterator[str]:
    strong = "**Warning:** " if note.kind == "warning" else ""
    yield f"> {strong}{inline(note.text)}"


def _listing(listing: Listing) -> Iterator[str]:
    for subject, text in listing.items:
        yield f"- **{inline(subject)}**: {inline(text)}"


def _figures(figures: Figures) -> Iterator[str]:
    for figure in figures.figures:
        yield f"- **{inline(figure.title)}**: {inline(figure.caption)}"


def _cards(cards: Cards) -> Iterator[str]:
    for card in cards.cards:
        context = f" ({inline(card.context)})" if card.context else ""
        yield f"- **{inline(card.badge)}: {inline(card.title)}**{context}"
        if card.warning:
            yield f"  - {inline(card.warning)}"
        for name, text in card.texts:
            yield f"  - {inline(name)}: {inline(text)}"
        if card.scores:
            yield f"  - {inline(', '.join(f'{name} {value}' for name, value in card.scores))}"
