"""Read a CSV file into rows that know their line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prs_med.data.records import DataError


@dataclass(frozen=True)
class Row:
    """One row of a CSV file."""

    line: int
    """The line it starts on, as an editor counts."""
    fields: list[str]
    """Its values as written, white space included."""
    text: str
    """The row as it stands in the file, without line ending."""


@dataclass(frozen=True)
class Table:
    """A CSV file."""

    name: str
    """Name of the file, without folders."""
    header: Row
    rows: list[Row]
    """Empty lines are left out."""

    def tight(self) -> bool:
        """Whether no separator is followed by white space, judged by the rows that are complete."""
        complete = (row for row in self.rows if len(row.fields) == len(self.header.fields))
        return not any(
            field[:1].isspace() for row in (self.header, *complete) for field in row.fields
        )


def read_table(path: Path) -> Table:
    """Read a CSV file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: the file cannot be read, is empty, is not UTF-8, or its quotes are broken; with
            the line where there is one.
    """
    lines = _Lines(_text(path))
    reader = csv.reader(lines, strict=True)
    rows: list[Row] = []
    while True:
        line = reader.line_num + 1
        lines.read.clear()
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(
                f"{path.name}:{line}: broken CSV ({error}); check the quotes of this row"
            ) from None
        if fields:
            rows.append(Row(line, fields, "".join(lines.read).rstrip("\r\n")))
    if not rows:
        raise DataError(f"{path.name}:1: the file is empty; it must start with a header line")
    return Table(path.name, rows[0], rows[1:])


class _Lines(Iterator[str]):
    """The lines of a text, of which those handed out last are kept."""

    def __init__(self, text: str) -> None:
        self._rest = io.StringIO(text, newline="")
        self.read: list[str] = []

    def __next__(self) -> str:
        self.read.append(next(self._rest))
        return self.read[-1]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name}:{line}: not UTF-8 text; save the file as UTF-8") from None
