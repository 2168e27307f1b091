"""Find the image and the mask that a row means, whichever of them it names.

An image and its mask lie in sister folders (``train_images`` and ``train_masks``, ``images`` and
``masks``) or in one folder. They share a name, except that the mask's may end in ``_Segmentation``
and that their extensions may differ; the row's own extension is tried first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from prs_med.data.columns import SPLITS
from prs_med.data.records import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_SUFFIX = "_Segmentation"

# One variant of the data set keeps everything below this folder; its CSV files may leave it out.
SHARED_FOLDER = "images_and_masks"
_KINDS = ("images", "masks")
# Folders that hold the files of a task and therefore name none.
_STORE_FOLDER = re.compile(rf"((train|val|test)_)?(images|masks)|train|val|test|{SHARED_FOLDER}")


def relative(root: Path, text: str, column: str) -> PurePosixPath:
    """A path of a row as one relative to the data root, with forward slashes and no way upwards.

    Args:
        root: the data root, resolved. An absolute path may lead into it.
        text: the value of the row.
        column: its column, for messages.

    Raises:
        DataError: the value is empty or leads out of the data root.
    """
    if not text:
        raise DataError(f"{column} is empty")
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.as_posix()):
        path = path.relative_to(root.as_posix())
    # A drive letter ("C:/x") is absolute on Windows only, but never a path inside the data root.
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        raise DataError(f"{column} {text!r} leads out of the data root; use a path relative to it")
    if not path.parts:
        raise DataError(f"{column} {text!r} names no file in the data root")
    return path


def image_and_mask(
    root: Path, named: PurePosixPath, mask: PurePosixPath | None
) -> tuple[Path, Path]:
    """The image and the mask of a row.

    Args:
        root: the data root, resolved.
        named: what the row names; the image, or in the official files the mask.
        mask: the mask, where the row names it besides.

    Raises:
        DataError: one of them does not exist, or leads out of the data root through a link.
    """
    stem = _plain_stem(named)
    image = image_of(root, named, mask)
    if _names_the_mask(named, mask):
        masks = [named]
    else:
        masks = [_sister(named, "masks", name) for name in (stem, f"{stem}{MASK_SUFFIX}")]
    return image, _find(root, "mask", masks if mask is None else [mask], other_than=image)


def image_of(root: Path, named: PurePosixPath, mask: PurePosixPath | None) -> Path:
    """The image of a row; arguments and errors as of :func:`image_and_mask`."""
    # Taken literally, the official image_path would show the model its own answer.
    return _find(root, "image", [image_named(named, mask)])


def image_named(named: PurePosixPath, mask: PurePosixPath | None) -> PurePosixPath:
    """Where the image of a row ought to be, whether it is there or not."""
    if _names_the_mask(named, mask):
        return _sister(named, "images", _plain_stem(named))
    return named


def mask_of(root: Path, named: PurePosixPath) -> Path:
    """The mask that a row names; errors as of :func:`image_and_mask`."""
    return _find(root, "mask", [named])


def names_a_file(root: Path, text: str) -> bool:
    """Whether a value is the path of an image or mask, or of one whose partner alone exists."""
    try:
        named = relative(root, text, "path")
        stem = _plain_stem(named)
        sisters = [_sister(named, kind, stem) for kind in _KINDS]
        _find(root, "file", [named, *sisters])
    except DataError:
        return False
    return True


def task_of(path: PurePosixPath) -> str:
    """The task that the first folder of a path names; empty if it is one like ``train_masks``."""
    folders = [part for part in path.parts[:-1] if part != SHARED_FOLDER]
    return "" if not folders or _STORE_FOLDER.fullmatch(folders[0]) else folders[0]


def split_of_folder(path: PurePosixPath) -> str:
    """The split that a folder such as ``test_masks`` or ``test/masks`` names; empty if none does.

    Without a split column, this still keeps test images out of training.
    """
    folders = path.parts[:-1]
    for before, folder, after in zip(("", *folders), folders, (*folders[1:], ""), strict=False):
        split, _, kind = folder.partition("_")
        beside = kind or (before if before in _KINDS else after)
        if split in SPLITS and beside in _KINDS:
            return split
    return ""


def _kind(path: PurePosixPath) -> str:
    """Whether the files of the path's folder are ``images`` or ``masks``; empty if it tells not."""
    number = _store(path)
    return "" if number is None else path.parts[number].rpartition("_")[2]


def _names_the_mask(named: PurePosixPath, mask: PurePosixPath | None) -> bool:
    return _kind(named) == "masks" or (named.stem.endswith(MASK_SUFFIX) and mask is None)


def _store(path: PurePosixPath) -> int | None:
    """Number of the last folder that is called ``images`` or ``masks``, or ends so."""
    for number in reversed(range(len(path.parts) - 1)):
        folder = path.parts[number]
        if folder != SHARED_FOLDER and folder.rpartition("_")[2] in _KINDS:
            return number
    return None


def _sister(path: PurePosixPath, kind: str, stem: str) -> PurePosixPath:
    """The path in the sister folder of this kind, under another stem and the same extension."""
    folders = list(path.parts[:-1])
    number = _store(path)
    if number is not None:
        folders[number] = folders[number].removesuffix(_kind(path)) + kind
    extension = path.suffix if path.suffix.lower() in EXTENSIONS else ""
    return PurePosixPath(*folders, stem + extension)


def _plain_stem(path: PurePosixPath) -> str:
    name = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return name.removesuffix(MASK_SUFFIX)


def _find(
    root: Path, what: str, wanted: Sequence[PurePosixPath], other_than: Path | None = None
) -> Path:
    """The first file that exists: each path as written, then with each known extension, then both
    below the shared folder."""
    for base in (root, root / SHARED_FOLDER):
        for path in wanted:
            for name in _with_extensions(path):
                file = base / name
                # os.path.isfile also answers for names no file system accepts, where Path.is_file
                # raises.
                if not os.path.isfile(file):
                    continue
                resolved = file.resolve()
                if not resolved.is_relative_to(root):
                    raise DataError(
                        f"{what} {str(name)!r} is a link that leads out of the data root"
                    )
                if other_than is None or resolved != other_than.resolve():
                    return file
    hint = " other than the image itself; add a mask_path column" if other_than else ""
    raise DataError(f"no {what} file {' or '.join(repr(str(p)) for p in wanted)} in {root}{hint}")


def _with_extensions(path: PurePosixPath) -> Iterator[PurePosixPath]:
    yield path
    base = path.with_suffix("") if path.suffix.lower() in EXTENSIONS else path
    endings = (*EXTENSIONS, *(extension.upper() for extension in EXTENSIONS))
    yield from (base.with_name(base.name + ending) for ending in endings)
