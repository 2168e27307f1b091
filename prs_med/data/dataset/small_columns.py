"""Read texts and numbers of a shard without its images and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prs_med.data.dataset.index import Shard
from prs_med.data.dataset.range_file import RangeFile
from prs_med.data.dataset.row_groups import read_footer
from prs_med.data.records import DataError
from prs_med.storage.store import Store

TARGET = "targets.list.element"
"""Parquet's name for what is said of each question."""


def read_small_columns(
    store: Store, shard: Shard, columns: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Some columns of each row group of a shard, its rows as dictionaries.

    Only their bytes are read. Parquet's own checksums of pages are compared; those of row groups
    cannot be.

    Args:
        store: where the shard is.
        shard: the shard.
        columns: Parquet's names of them, such as ``width`` or ``targets.list.element.zone``.

    Raises:
        DataError: the shard is missing or damaged.
    """
    footer = read_footer(store, shard)
    whole = RangeFile(shard.size, partial(store.read, shard.name))
    file = pq.ParquetFile(
        pa.PythonFile(whole, mode="r"), metadata=footer.metadata, page_checksum_verification=True
    )
    for number in range(len(shard.row_groups)):
        try:
            yield file.read_row_group(number, columns=list(columns)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            where = f"{store.where(shard.name)} row group {number}"
            raise DataError(f"{where}: cannot be read ({error})") from error
