"""Small datasets of phantoms: more questions about an image, and shards of a few row groups."""

from __future__ import annotations

from pathlib import Path

from prs_med.data.dataset.build import Built, Layout, build
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records
from prs_med.storage.store import Store


def ask_again(root: Path, addition: str, every: int = 1) -> None:
    """Ask every so many-th question of the annotation files again, with an addition to it."""
    for path in (root / "annotations").glob("*.csv"):
        head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        again = [row.replace("?", f" {addition}?", 1) for row in rows[::every]]
        path.write_text(head + "".join(rows + again), encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build_small(root: Path, store: Store, row_group_bytes: int, shard_bytes: int) -> Built:
    """Build a dataset of all that the annotation files ask."""
    return build(
        split_records(read_annotations(root, None, "error").records, 0.1, 0),
        root,
        store,
        Layout(row_group_bytes, shard_bytes, shuffle=True, seed=0),
        held_out="",
        skip_bad_rows=False,
        allow_duplicates=False,
        workers=2,
        show_progress=False,
    )
