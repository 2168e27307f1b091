"""Which files of a folder are images to ask about, and which are something else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from prs_med.data.paths import MASK_SUFFIX
from prs_med.data.records import DataError
from prs_med.storage.results_folder import MADE_BY

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_SCANS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz")
_NO_ENDING = "without an ending"


@dataclass
class ImageFolder:
    """What a folder and those below it hold. Hidden files and folders do not count."""

    images: list[Path] = field(default_factory=list)
    """By name."""
    masks: int = 0
    """Pictures in folders of masks, or named as masks."""
    results: list[Path] = field(default_factory=list)
    """Folders that a command of this package wrote."""
    others: Counter[str] = field(default_factory=Counter)
    """How many other files there are, by the ends of their names in small letters."""

    def passed_over(self) -> str:
        """In words, what is not asked about; empty if there is nothing."""
        parts = [f"{self.masks} masks"] if self.masks else []
        if self.results:
            parts.append(f"the results in {', '.join(map(str, self.results))}")
        if self.others:
            kinds = (f"{ending} {count}" for ending, count in sorted(self.others.items()))
            parts.append(f"{self.others.total()} files that are no pictures ({', '.join(kinds)})")
        scans = any(ending in _SCANS for ending in self.others)
        advice = "; scans become pictures by 'launch/data.py slices'" if scans else ""
        return " and ".join(parts) + (" are passed over" + advice if parts else "")


def image_folder(folder: Path, written: Collection[Path] = ()) -> ImageFolder:
    """Look through a folder and those below it, except through links to folders.

    Args:
        folder: the folder.
        written: files and folders that are passed over without a word: the caller's own.

    Raises:
        DataError: it holds no image.
    """
    found = ImageFolder()
    own = {path.absolute() for path in written}
    for name, folders, files in os.walk(folder):
        here = Path(name)
        seen = [
            path
            for path in (here / below for below in sorted(folders) if not below.startswith("."))
            if path.absolute() not in own
        ]
        results = [path for path in seen if (path / MADE_BY).exists()]
        found.results += results
        folders[:] = [path.name for path in seen if path not in results]
        of_masks = _is_of_masks(here.relative_to(folder))
        for path in (here / file for file in files if not file.startswith(".")):
            if path.absolute() not in own and path.name != MADE_BY:
                _sort_in(found, path, of_masks)
    found.images.sort()
    if not found.images:
        passed_over = found.passed_over()
        raise DataError(
            f"{folder}: no image file ({', '.join(IMAGE_SUFFIXES)})"
            + (f"; {passed_over}" if passed_over else "")
        )
    return found


def _sort_in(found: ImageFolder, path: Path, of_masks: bool) -> None:
    ending = path.suffix.lower()
    if ending not in IMAGE_SUFFIXES:
        if path.name.lower().endswith(".nii.gz"):
            ending = ".nii.gz"
        found.others[ending or _NO_ENDING] += 1
    elif of_masks or path.stem.lower().endswith(MASK_SUFFIX.lower()):
        found.masks += 1
    else:
        found.images.append(path)


def _is_of_masks(folder: Path) -> bool:
    """Whether one of these folders is called ``masks``, ``train_masks``, ``masks_parts`` or so."""
    return any(
        part.removesuffix("_parts").rpartition("_")[2] == "masks" and part != "images_and_masks"
        for part in folder.parts
    )
