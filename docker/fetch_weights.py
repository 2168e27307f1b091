"""Copy a folder of weights from S3, once: ``fetch_weights.py s3://bucket/folder FOLDER``"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from prs_med.programs.program import refused
from prs_med.storage.failures import folder_error
from prs_med.storage.location import open_store
from prs_med.storage.store import StorageError, Store

PIECE = 64 << 20


def fetch(store: Store, name: str, size: int, target: Path) -> None:
    """Copy one file, which gets its name when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    with unfinished.open("wb") as file:
        for start in range(0, size, PIECE):
            file.write(store.read(name, start, min(PIECE, size - start)))
    unfinished.replace(target)


def main(uri: str, folder: str) -> int:
    """The exit status: 0 if all files are there, complete; 2, or 75 where S3 is away."""
    try:
        store = open_store(uri)
        names = store.names()
        if not names:
            raise StorageError(f"{uri}: no files there")
        for name in tqdm(names, "fetching weights", unit="file"):
            size = store.size(name)
            if size is None:
                raise StorageError(f"{store.where(name)}: went away")
            target = Path(folder, name)
            if target.exists() and target.stat().st_size == size:
                continue
            try:
                fetch(store, name, size, target)
            except StorageError:
                raise
            except OSError as error:
                raise folder_error(str(target), error) from error
    except StorageError as error:
        return refused(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
