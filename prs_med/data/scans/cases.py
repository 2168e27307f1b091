"""Which scans a folder holds, and which file or folder is the mask of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prs_med.data.records import DataError

NIFTI = (".nii", ".nii.gz")
DICOM = ".dcm"
PICTURE = ".png"
_SAFE = re.compile(r"\w[\w.+@=() -]*")


@dataclass(frozen=True)
class Case:
    """One scan."""

    name: str
    """Name of its file or folder, without the ending."""

    scan: Path
    """A NIfTI file, a DICOM file, or a folder of DICOM files."""

    mask: Path | None
    """The same, or a PNG file; None where no masks are read."""


@dataclass(frozen=True)
class Cases:
    """What a folder of scans and a folder of masks hold."""

    cases: list[Case]
    """In the order of their names; at least one."""

    unused: list[Path]
    """What is neither a scan nor a mask, and masks without a scan."""


def find_cases(scans: Path, masks: Path | None) -> Cases:
    """The cases in a folder: ``NAME.nii``, ``NAME.nii.gz``, ``NAME.dcm`` or a folder ``NAME``.

    Raises:
        DataError: a folder does not exist or holds no scan, two files have one name, a name cannot
            be used in file names, or a scan has no mask.
    """
    found, unused = _entries(scans, (*NIFTI, DICOM))
    if not found:
        raise DataError(f"{scans}: no scan (NAME.nii, NAME.nii.gz, NAME.dcm or a folder NAME)")
    if masks is None:
        return Cases([Case(name, path, None) for name, path in sorted(found.items())], unused)
    mask_of, others = _entries(masks, (*NIFTI, DICOM, PICTURE))
    missing = sorted(found.keys() - mask_of.keys())
    if missing:
        raise DataError(
            f"{masks}: {len(missing)} of {len(found)} scans have no mask: {_list(missing)}; name "
            "each mask like its scan, and move scans without one elsewhere"
        )
    unused += others + [mask_of[name] for name in sorted(mask_of.keys() - found.keys())]
    cases = [Case(name, path, mask_of[name]) for name, path in sorted(found.items())]
    return Cases(cases, unused)


def check_safe(name: str, where: str) -> None:
    """Refuse a name that could leave its folder or that not every file system takes.

    Raises:
        DataError: the name is not letters, digits and ``_-.+@=()`` and space, or has ``..`` in it.
    """
    if not _SAFE.fullmatch(name) or ".." in name or name != name.strip(". "):
        raise DataError(
            f"{where}: {name!r} cannot be part of a file name; use letters, digits, _ and -"
        )


def has_ending(path: Path, *endings: str) -> bool:
    """Whether the name of a path ends in one of these, in small letters or capitals."""
    return path.name.lower().endswith(endings)


def _entries(folder: Path, endings: tuple[str, ...]) -> tuple[Mapping[str, Path], list[Path]]:
    """Files with these endings and folders, by case, and everything else."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    found: dict[str, Path] = {}
    others = []
    for path in paths:
        name = _case_name(path, endings)
        # macOS leaves a "._NAME" beside every file that it copies to other file systems.
        if name is None or path.name.startswith("._"):
            others.append(path)
            continue
        check_safe(name, str(path))
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name; rename one")
        found[name] = path
    return found, others


def _case_name(path: Path, endings: tuple[str, ...]) -> str | None:
    if path.is_dir():
        return None if path.name.startswith(".") else path.name
    for ending in endings:
        if has_ending(path, ending):
            return path.name[: -len(ending)]
    return None


def _list(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
