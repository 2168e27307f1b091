"""The columns of a shard: one row is one image with all that is asked about it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa


@cache
def schema() -> pa.Schema:
    """The Arrow schema, with the Hugging Face features in its metadata.

    ``datasets.load_dataset`` reads them from there, and so decodes the image columns by itself.
    Images and masks are kept as they were encoded.
    """
    # Slow to import, and reading shards does not need it.
    from datasets import Features, Image, List, Value

    features = Features(
        {
            "image": Image(),
            "width": Value("int32"),
            "height": Value("int32"),
            "modality": Value("string"),
            "task": Value("string"),
            "group": Value("string"),
            "targets": List(
                {
                    "mask": Image(),
                    "question": Value("string"),
                    "answer": Value("string"),
                    "position": Value("string"),
                    "zone": Value("string"),
                    "near_center": Value("bool"),
                    "row_id": Value("string"),
                }
            ),
        }
    )
    return features.arrow_schema


def column_compression(columns: pa.Schema) -> dict[str, str]:
    """Compression of each leaf column: none for encoded images, which it would only slow down; for
    texts one that needs no preparation, because each row group has little of them."""
    return {leaf: "none" if leaf.endswith("bytes") else "snappy" for leaf in _leaves(columns)}


def _leaves(columns: pa.Schema) -> list[str]:
    """Parquet's names of the leaf columns."""
    found: list[str] = []

    def walk(path: str, kind: Any) -> None:
        if pa.types.is_struct(kind):
            for field in kind:
                walk(f"{path}.{field.name}", field.type)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            walk(f"{path}.list.element", kind.value_type)
        else:
            found.append(path)

    for field in columns:
        walk(field.name, field.type)
    return found
