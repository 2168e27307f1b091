"""What a report says, before it is a page: :mod:`prs_med.report.page` makes HTML of it,
:mod:`prs_med.report.markdown` Markdown, both with the same numbers and words.

All texts here are plain: whoever renders them escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

Tone = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    detail: tuple[str, ...] = ()
    """Smaller lines beneath the text."""
    sort: float | str | None = None
    """What rows are sorted by; cells without it come last in either direction."""
    heat: float | None = None
    """From 0 to 1, how strongly the cell is shaded; None for a cell without shade."""
    tone: Tone = ""
    """Emphasis on top of what the text already says."""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    explanation: str = ""
    """Shown in small letters under the name."""
    kind: Literal["number", "text", "name"] = "number"
    """Numbers are aligned at their end; texts wrap; names stay on one line if they can."""


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted by a click on a column's head."""

    block: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]
    """The first cell of a row names it."""
    footer: Sequence[tuple[Cell, ...]] = ()
    """Rows that stay at the end however the others are sorted."""
    sortable: bool = True


@dataclass(frozen=True)
class Facts:
    """Names with a value each."""

    block: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Note:
    """A sentence that must not be overlooked, or one that says why there is nothing to see."""

    block: ClassVar[str] = "note"
    text: str
    kind: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Listing:
    """Short texts, one below the other."""

    block: ClassVar[str] = "listing"
    items: Sequence[tuple[str, str]]
    """What it is about, and what there is to say."""


@dataclass(frozen=True)
class Tile:
    """One figure to see first."""

    name: str
    value: str
    details: tuple[str, ...]
    explanation: str = ""
    chart: Markup | None = None


@dataclass(frozen=True)
class Tiles:
    """Figures to see first, in their order."""

    block: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Figure:
    """A chart with its title."""

    title: str
    chart: Markup
    caption: str
    """What the chart shows, in numbers; all that Markdown has of it."""


@dataclass(frozen=True)
class Figures:
    """Charts side by side where there is room."""

    block: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Picture:
    """A small picture as part of a page."""

    caption: str
    source: str | None
    """A ``data:`` address; None where there is no such picture."""
    width: int
    """In pixels, also of the empty place of a missing picture."""
    height: int
    description: str
    """For those who do not see it."""


@dataclass(frozen=True)
class Card:
    """One sample with pictures, texts and scores."""

    title: str
    badge: str
    kind: str
    """For the style of the badge: ``best``, ``median``, ``worst``, ``failed`` or ``example``."""
    context: str
    pictures: Sequence[Picture]
    texts: Sequence[tuple[str, str]]
    """Whose words, and the words."""
    scores: Sequence[tuple[str, str]]
    warning: str = ""


@dataclass(frozen=True)
class Cards:
    """Samples, each in a frame of its own."""

    block: ClassVar[str] = "cards"
    cards: Sequence[Card]


Block = Table | Facts | Note | Listing | Tiles | Figures | Cards


@dataclass(frozen=True)
class Section:
    """A part of a report with a title of its own."""

    anchor: str
    """Name of the section in links: letters and hyphens."""
    title: str
    explanation: str
    """One short sentence for readers who see such a thing for the first time."""
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    kind: str
    """What sort of report it is, in a word or two."""
    title: str
    subtitle: str
    sections: Sequence[Section]
    refresh_seconds: int | None = None
    """After how long a browser reads the page again; None for a page that is finished."""
