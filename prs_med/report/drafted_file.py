"""Files that are there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text to a draft beside ``path``, then put it in its place; folders are made.

    Whoever reads ``path`` meanwhile sees the old text or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    # Texts of a model may hold halves of surrogate pairs, which UTF-8 has no bytes for.
    draft.write_bytes(text.encode("utf-8", errors="replace"))
    draft.replace(path)
