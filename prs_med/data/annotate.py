"""Write questions and answers about images whose masks are there: where does the structure lie?

The positions follow :mod:`prs_med.data.position`. A mask of one piece is asked about as it is. Of
several pieces each is asked about by itself, as the first, second, third ... structure, counted in
reading order (by the middles of their boxes from top to bottom, and from left to right where these
are level); its mask is written to a folder beside the masks. Of more than five pieces the five
largest are asked about, and counted among themselves. A mask of several classes is asked about as
if each of them had a mask of its own.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from prs_med.data.components import pieces
from prs_med.data.images import (
    check_same_size,
    decode_mask,
    encode_mask,
    load_image,
    read_bytes,
)
from prs_med.data.pairs import Pair, check_pairs, find_pairs, part_path
from prs_med.data.position import position_of, position_statement
from prs_med.data.question_templates import (
    GENERAL_QUESTIONS,
    ORDINALS,
    is_readable,
    kind_of,
    questions_and_answers,
    structure_of,
)
from prs_med.data.records import DataError
from prs_med.mask_classes import MaskClass
from prs_med.storage.directory import DirectoryStore

__all__ = ["Pair", "Summary", "annotate", "find_pairs"]

_COLUMNS = ("image_path", "mask_path", "question", "answer", "position", "modality", "task")


@dataclass
class Summary:
    """What was written, and what was not."""

    images: int = 0
    rows: int = 0
    several: int = 0
    """Masks of several pieces that count."""
    dropped: int = 0
    """Pieces smaller than ``min_component``."""
    left_out: int = 0
    """Pieces beyond the five largest of their mask."""
    empty: list[PurePosixPath] = field(default_factory=list)
    """Empty masks: their images have no row."""
    too_small: list[PurePosixPath] = field(default_factory=list)
    """Masks whose pieces are all too small: their images have no row."""
    of_class: Counter[str] = field(default_factory=Counter)
    """Masks that are asked about, by class, where classes are named."""

    def text(self) -> str:
        """All of it in words, with the masks that have no row."""
        lines = [
            f"{self.images} images, {self.rows} questions",
            f"{self.several} masks of several pieces, each asked about by itself",
            f"{self.dropped} pieces left out because they are smaller than --min_component",
            f"{self.left_out} pieces left out because their masks have {len(ORDINALS)} larger ones",
        ]
        lines += [f"{count} masks show {name}" for name, count in self.of_class.items()]
        for masks, what in (
            (self.empty, "masks are empty and have no question"),
            (self.too_small, "masks have only pieces below --min_component and no question"),
        ):
            lines.append(f"{len(masks)} {what}{':' if masks else ''}")
            lines += [f"  {mask}" for mask in masks]
        return "\n".join(lines)


def annotate(
    data_root: Path,
    pairs: Sequence[Pair],
    output: Path,
    *,
    structure: str | None,
    seed: int,
    min_component: float,
    workers: int,
    show_progress: bool,
    questions_per_target: int = 1,
    classes: Sequence[MaskClass] = (),
) -> Summary:
    """Write a CSV file with questions about these images, and the masks of single pieces.

    The words of a row are chosen by the seed, the image's path and the number of the piece alone,
    so other images in the data change no row. The same data and arguments write the same bytes,
    whatever the order of the pairs and the number of threads. The CSV file is written last.

    The file has a column ``split`` if the pairs have one, and ``patient_id`` if any has. Masks of
    single pieces are at :func:`prs_med.data.pairs.part_path`; files there are replaced.

    Args:
        data_root: folder that the paths of the pairs are relative to.
        pairs: as :func:`find_pairs` gives them.
        output: CSV file to write; its folder is made if need be.
        structure: what the masks show, in the singular and without article; None takes it by task.
        seed: another seed chooses other words.
        min_component: pieces that cover a smaller share of the image are left out.
        workers: threads that read, decode and write.
        show_progress: draw a bar.
        questions_per_target: differently worded questions about each structure.
        classes: the classes of masks that show several, instead of ``structure``.

    Raises:
        DataError: an image or mask that cannot be read, or that differ in size; names that would
            make answers unreadable; two masks of one image; what
            :func:`prs_med.data.pairs.check_pairs` refuses; no row at all.
        StorageError: a file cannot be written.
    """
    root = data_root.resolve()
    ordered = sorted(pairs, key=lambda pair: (pair.image.as_posix(), pair.mask.as_posix()))
    if not 1 <= questions_per_target <= len(GENERAL_QUESTIONS):
        raise DataError(
            f"{questions_per_target} questions about each structure: there are "
            f"{len(GENERAL_QUESTIONS)} wordings; use a number from 1 to {len(GENERAL_QUESTIONS)}"
        )
    names = _names(ordered, structure, classes)
    _check_one_name(ordered, names)
    check_pairs(ordered, classes)
    store = DirectoryStore(root, through_links=False)
    look = partial(_look, store, root, min_component, seed, questions_per_target, classes)
    summary = Summary(images=len({pair.image for pair in ordered}))
    summary.of_class.update({one.name: 0 for one in classes})
    rows: list[dict[str, str]] = []
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(
            zip(ordered, pool.map(look, ordered, names), strict=True),
            total=len(ordered),
            desc="annotating",
            unit="mask",
            disable=not show_progress,
        ) as looks,
    ):
        for pair, looked in looks:
            rows += looked.rows
            summary.several += looked.several
            summary.dropped += looked.dropped
            summary.left_out += looked.left_out
            summary.of_class.update(looked.classes)
            if not looked.rows:
                (summary.too_small if looked.dropped else summary.empty).append(pair.mask)
    summary.rows = len(rows)
    if not rows:
        raise DataError(f"there is nothing to ask about:\n{summary.text()}")
    columns = [
        *_COLUMNS,
        *(name for name in ("split", "patient_id") if any(row[name] for row in rows)),
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if output.is_relative_to(data_root):
        store.write(output.relative_to(data_root).as_posix(), text.getvalue().encode())
    else:
        DirectoryStore(output.parent).write(output.name, text.getvalue().encode())
    return summary


@dataclass
class _Looked:
    """What was found in one mask; see :class:`prs_med.data.components.Pieces`."""

    several: int = 0
    """How many of its classes have several pieces that count."""
    dropped: int = 0
    left_out: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """The classes that are asked about."""


def _names(pairs: Sequence[Pair], structure: str | None, classes: Sequence[MaskClass]) -> list[str]:
    """What each mask shows; of one with several classes, all of them."""
    if structure is not None and not structure.strip():
        raise DataError("the name of the structure is empty: name what the masks show")
    if structure is not None and classes:
        raise DataError("--structure and --classes exclude each other: give one of them")
    named = next((pair for pair in pairs if pair.structure), None)
    if classes and named:
        raise DataError(
            f"{named.mask}: the pairs name its structure, {named.structure}, and --classes names "
            "classes: drop one of them"
        )
    if classes:
        names = [" and ".join(one.name for one in classes)] * len(pairs)
    else:
        names = [
            pair.structure or (structure.strip() if structure else structure_of(pair.task))
            for pair in pairs
        ]
    for name in sorted({one.name for one in classes} or set(names)):
        if not is_readable(name):
            raise DataError(
                f"structure {name!r}: its words hide the position in answers; use a name without "
                "a place of its own (in the top right), denials (no) and doubts (possible)"
            )
    return names


def _check_one_name(pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """Refuse to ask the same question about two masks of one image."""
    masks: dict[tuple[PurePosixPath, str], PurePosixPath] = {}
    for pair, name in zip(pairs, names, strict=True):
        other = masks.setdefault((pair.image, name), pair.mask)
        if other != pair.mask:
            raise DataError(
                f"{pair.image} has the masks {other} and {pair.mask}, and questions would call "
                f"both of them the {name}: unite them, or annotate each kind of mask with a CSV "
                "file of pairs and a structure of its own"
            )


def _look(
    store: DirectoryStore,
    root: Path,
    min_component: float,
    seed: int,
    questions: int,
    classes: Sequence[MaskClass],
    pair: Pair,
    structure: str,
) -> _Looked:
    """Find the pieces of a mask, write those that need masks of their own, and make the rows."""
    looked = _Looked()
    image, data = load_image(root / pair.image), read_bytes(root / pair.mask)
    for one in classes or (None,):
        mask = decode_mask(data, str(root / pair.mask), one)
        check_same_size(image, mask, str(pair.image))
        found = pieces(mask, min_component, most=len(ORDINALS))
        looked.several += len(found.masks) > 1
        looked.dropped += found.dropped
        looked.left_out += found.left_out
        if one is not None and found.masks:
            looked.classes.append(one.name)
        alone = len(found.masks) == 1 and not found.dropped
        for number, piece in enumerate(found.masks, start=1):
            path = pair.mask
            if one is not None or not alone:
                path = part_path(pair.mask, None if alone else number, one)
                store.write(str(path), encode_mask(piece))
            name, counted = one.name if one else structure, ""
            if len(found.masks) > 1:
                name = f"{ORDINALS[number - 1]} {name}"
                among = " among the five largest" if found.left_out else ""
                counted = f"counted from the top{among}"
            key = f"{pair.image}\0{one.name}" if one else str(pair.image)
            looked.rows += _rows(
                pair, path, piece, name, counted, f"{seed}\0{key}\0{number}", questions
            )
    return looked


def _rows(
    pair: Pair,
    mask: PurePosixPath,
    piece: np.ndarray,
    name: str,
    counted: str,
    key: str,
    questions: int,
) -> list[dict[str, str]]:
    """The rows about one piece, (H, W) bool, in its file; ``name`` and ``counted`` are its words,
    and ``key`` chooses those of the questions."""
    position = position_of(piece)
    kind = kind_of(pair.modality, pair.task)
    return [
        {
            "image_path": str(pair.image),
            "mask_path": str(mask),
            "question": question,
            "answer": answer,
            "position": position_statement(name, position),
            "modality": pair.modality or pair.task,
            "task": pair.task,
            "split": pair.split,
            "patient_id": pair.patient_id,
        }
        for question, answer in questions_and_answers(
            name, counted, kind, position, key=key, count=questions
        )
    ]
