"""Checksums of what is in files: their sizes and times of change may be those of others, too."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash
from tqdm import tqdm

from prs_med.data.records import DataError

_PART = 1 << 20


def content_digest(path: Path) -> str:
    """32 hexadecimal digits of the XXH3 (128 bits) of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()


def content_digests(rows: Mapping[Path, str], workers: int, show_progress: bool) -> dict[Path, str]:
    """The digests of files.

    Args:
        rows: the files, each with a row that names it.
        workers: threads that read.
        show_progress: draw a bar.

    Raises:
        DataError: a file cannot be read; with its row.
    """

    def digest(path: Path) -> str:
        try:
            return content_digest(path)
        except OSError as error:
            raise DataError(f"{rows[path]}: {path}: {error.strerror}") from None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = tqdm(
            pool.map(digest, rows),
            total=len(rows),
            desc="reading files",
            unit="file",
            disable=not show_progress,
            leave=False,
        )
        return dict(zip(rows, found, strict=True))
