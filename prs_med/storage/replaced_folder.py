"""A folder that is replaced as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(draft: Path, folder: Path) -> None:
    """Give ``draft``, which lies beside it, the name of ``folder``, and remove what had it.

    A reader finds all files of the one or all of the other; for an instant between them, none.

    Raises:
        OSError: a folder cannot be renamed.
    """
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
