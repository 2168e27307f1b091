"""The libraries that read scans, which are installed only where scans are read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prs_med.checked_settings import SettingError
from prs_med.data.records import DataError


def library(name: str) -> Any:
    """A module of pydicom or nibabel, such as ``pydicom.pixels``.

    Raises:
        SettingError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        kind = "NIfTI" if package == "nibabel" else "DICOM"
        raise SettingError(
            f"reading {kind} files needs {package}: pip install -e '.[scans]'"
        ) from error


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a :class:`DataError` that names it."""
    try:
        yield
    except (DataError, SettingError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    # On damaged bytes the libraries raise nearly every type there is, from KeyError to zlib.error.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path}: not a readable {kind} file ({reason})") from error
