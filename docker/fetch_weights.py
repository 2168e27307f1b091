"""Copy a folder of weights from S3, once: ``fetch_weights.py s3://bucket/folder FOLDER``"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from prs_med.storage.location import open_store
from prs_med.storage.store import StorageError

PIECE = 64 << 20


def main(uri: str, folder: str) -> int:
    """The exit status: 0 if all files are there, complete."""
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
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(target.name + ".part")
            with unfinished.open("wb") as file:
                for start in range(0, size, PIECE):
                    file.write(store.read(name, start, min(PIECE, size - start)))
            unfinished.replace(target)
    except (StorageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
