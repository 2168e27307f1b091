"""Tables with a row for each modality and one for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prs_med.report import numbers
from prs_med.report.content import Cell, Column, Table
from prs_med.report.measures import Measure, summary_cell

Row = tuple[Cell, ...]


def by_modality(
    metrics: dict[str, Any], cells: Callable[[dict[str, Any]], list[Cell]]
) -> tuple[list[Row], list[Row]]:
    """Rows of a table and its last row, for all; ``cells`` gives those after the name."""
    rows = [
        (_name_cell(name, group), *cells(group)) for name, group in metrics["modalities"].items()
    ]
    return rows, [(_name_cell("All", metrics["all"]), *cells(metrics["all"]))]


def summary_table(
    metrics: dict[str, Any],
    part: str,
    measures: Sequence[Measure],
    caption: str,
    first: Sequence[tuple[Column, Callable[[dict[str, Any]], Cell]]] = (),
) -> Table:
    """A column for each measure of a part of the metrics, after the columns of ``first``, each with
    what its cell is for a group."""

    def cells(group: dict[str, Any]) -> list[Cell]:
        return [
            *(cell(group) for _, cell in first),
            *(summary_cell(group[part][measure.key], measure) for measure in measures),
        ]

    columns = (
        Column("Modality", kind="name"),
        *(column for column, _ in first),
        *(Column(measure.name, measure.explanation) for measure in measures),
    )
    return Table(caption, columns, *by_modality(metrics, cells))


def _name_cell(name: str, group: dict[str, Any]) -> Cell:
    """A name with how many questions it stands for."""
    failed = (f"{numbers.count(group['failures'])} failed",) if group["failures"] else ()
    detail = (
        numbers.counted(group["samples"], "question"),
        f"in {numbers.counted(group['groups'], 'group')}",
    )
    return Cell(name, (*detail, *failed), name)
