"""The files that an evaluation leaves for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prs_med.config import SettingError
from prs_med.evaluate.summary import VERSION

METRICS = "metrics.json"
ROWS = "per_sample.parquet"

_ABOUT = {"checkpoint", "data", "data_kind", "split"}
"""What metrics.json must say of the evaluation to be compared."""
_BY_NAME = {
    "number": pa.int64(),
    "true_area": pa.int64(),
    "predicted_area": pa.int64(),
    **dict.fromkeys(
        (
            *("row_id", "image", "mask", "modality", "group", "question", "answer"),
            *("predicted_answer", "error", "true_zone", "answered_zone", "mask_zone"),
        ),
        pa.string(),
    ),
    **dict.fromkeys(
        (
            *("zone_correct", "near_center_correct", "answer_agrees_with_mask"),
            *("mask_zone_correct", "answer_unclear", "reference_disagrees"),
        ),
        pa.bool_(),
    ),
}


def write_results(output: Path, metrics: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write metrics.json and per_sample.parquet, each as a whole."""
    output.mkdir(parents=True, exist_ok=True)
    draft = output / f"{ROWS}.draft"
    table = pa.Table.from_pylist([_as_text(row) for row in rows], schema=_schema(rows[0]))
    pq.write_table(table, draft)
    draft.replace(output / ROWS)
    draft = output / f"{METRICS}.draft"
    draft.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    draft.replace(output / METRICS)


def read_results(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What :func:`write_results` wrote.

    Raises:
        SettingError: the folder holds no evaluation of this version.
    """
    try:
        metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        if metrics["version"] != VERSION:
            raise SettingError(
                f"{folder / METRICS}: version {metrics['version']!r}; this program reads {VERSION}"
            )
        rows: list[dict[str, Any]] = pq.read_table(folder / ROWS).to_pylist()
        missing = _ABOUT - metrics["evaluation"].keys() or _BY_NAME.keys() - rows[0].keys()
        if missing:
            raise SettingError(f"{folder}: its results do not tell {min(missing)!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(
            f"{folder}: holds no finished evaluation ({error}); give the --output_dir of one"
        ) from None
    return metrics, rows


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    """A row without halves of surrogate pairs, as names of files that are no text have them."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }


def _schema(row: dict[str, Any]) -> pa.Schema:
    """A column of which every value is null would have no type."""
    return pa.schema([(name, _type(name)) for name in row])


def _type(name: str) -> pa.DataType:
    if name.startswith("judge"):
        return pa.bool_()
    return _BY_NAME.get(name, pa.float64())
