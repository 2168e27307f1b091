"""Put rows right whose texts contain commas but were written without quotes.

The values of such a row can be divided among the columns in several ways. A way is accepted only if
it is the single one left, so that nothing is guessed:

* Where all separators of a file are tight (no space after them), a comma before a space is part of
  a text. Values never start with a space themselves, because they are read without it.
* Some columns show what is theirs: a path names a file, a split is one of three words. A way that
  gives them anything else is out.
* What is left must not look wrong: a question that goes on after its question mark, or an answer
  that contains the position statement, means that the line was written differently.

The search has an end: a row whose commas allow too many ways is not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

_LOOKS_WRONG = {
    "question": re.compile(r"\?\s*,"),
    "answer": re.compile(r",\s*the position of\b", re.IGNORECASE),
}

_MOST_COLUMNS = 100
_MOST_VALUES = 20_000
"""Values that are tried for one row at most: some milliseconds."""
_MOST_LOOKS = 300
"""Of those, such as are looked up on disk, each under many names."""


class _TooManyWaysError(Exception):
    """The search for one way to divide a row takes too long."""


def repair(
    text: str,
    columns: Sequence[str],
    recognised: Mapping[str, Callable[[str], bool]],
    tight: bool,
) -> list[str] | None:
    """Divide a row with too many fields among its columns, if there is only one way to.

    Args:
        text: the row as it stands in the file, without line ending.
        columns: names of the columns, in order.
        recognised: for some of the columns, whether a value can be theirs. Every correct row must
            satisfy these, or another reading of it could be taken for the right one.
        tight: whether no separator of the file is followed by white space.

    Returns:
        One value for each column, without the white space around it, or None if the row cannot be
        repaired without guessing.
    """
    pieces = text.split(",")
    if len(columns) > _MOST_COLUMNS or len(pieces) <= len(columns):
        return None
    if any(piece.startswith('"') for piece in pieces):
        # Who quoted one field of a row meant its other commas as separators.
        return None
    tried = looked = 0

    @cache
    def readings(column: int, start: int) -> tuple[tuple[str, ...], ...]:
        """Up to two ways to give the pieces from ``start`` on to the columns from ``column`` on."""
        if column == len(columns):
            return ((),) if start == len(pieces) else ()
        nonlocal tried, looked
        columns_left = len(columns) - column - 1
        first_end = start + 1 if columns_left else len(pieces)
        found: list[tuple[str, ...]] = []
        for end in range(first_end, len(pieces) - columns_left + 1):
            if tight and end < len(pieces) and pieces[end][:1].isspace():
                continue
            value = ",".join(pieces[start:end]).strip()
            accepts = recognised.get(columns[column])
            tried, looked = tried + 1, looked + (accepts is not None)
            if tried > _MOST_VALUES or looked > _MOST_LOOKS:
                raise _TooManyWaysError
            if accepts is not None and not accepts(value):
                continue
            found += [(value, *rest) for rest in readings(column + 1, end)]
            if len(found) > 1:
                break
        return tuple(found[:2])

    try:
        ways = readings(0, 0)
    except _TooManyWaysError:
        return None
    if len(ways) != 1:
        return None
    for column, value in zip(columns, ways[0], strict=True):
        if column in _LOOKS_WRONG and _LOOKS_WRONG[column].search(value):
            return None
    return list(ways[0])
