"""From a name that a user gives to the place behind it."""

from __future__ import annotations

import os
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.s3_place import S3Place
from prs_med.storage.s3 import S3Store


def open_place(uri: str, staging: Path | None = None) -> Place:
    """The place that ``s3://bucket/folder`` or the path of a folder names.

    ``staging``: local folder through which files go to S3; needed only to write.
    """
    if uri.startswith("s3://"):
        return S3Place(S3Store(uri), staging or Path(os.devnull))
    return DirectoryPlace(Path(uri))
