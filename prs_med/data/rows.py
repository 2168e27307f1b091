"""Read the rows that settings name, and try all that they need once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image
from tqdm import tqdm

from prs_med.config import RowSettings, names_in
from prs_med.data.contents import content_digest
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.order import Rank
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError, Record
from prs_med.data.sources import Annotations, read_annotations
from prs_med.data.split import Splits, divide
from prs_med.mask_classes import MaskClass, class_named

ONE_PROCESS = Rank(0, 1)


def read_records(settings: RowSettings) -> Annotations:
    """All rows of the CSV files that the settings name; see :func:`read_annotations`."""
    return read_annotations(
        Path(settings.data_root),
        annotation_paths(settings.ann_paths),
        settings.on_bad_rows,
        settings.group_column,
        tasks_in(settings.tasks),
    )


def tasks_in(setting: str | None) -> list[str] | None:
    """The tasks that ``--tasks`` names; None for all."""
    return None if setting is None else names_in(setting)


def annotation_paths(setting: str | None) -> list[Path] | None:
    """The files that ``--ann_paths`` names; None for all in the data root."""
    if setting is None:
        return None
    return [Path(part) for part in names_in(setting)]


def choose_classes(
    records: Sequence[Record], classes: Sequence[MaskClass], on_bad_rows: str
) -> tuple[list[Record], list[str]]:
    """Give each row the class of its mask that its question asks about: the one whose name stands
    in the question, or else in the answer.

    Returns:
        The rows, and messages about those that ask about none or several.

    Raises:
        DataError: for the first of the latter, unless ``on_bad_rows`` is ``skip``.
    """
    chosen: list[Record] = []
    bad_rows: list[str] = []
    for record in records:
        found = class_named(classes, record.question) or class_named(classes, record.answer)
        if found:
            chosen.append(replace(record, mask_class=found))
            continue
        names = ", ".join(one.name for one in classes)
        bad_rows.append(
            f"{record.row_id}: neither question nor answer names one class alone of --classes "
            f"({names}), so that its mask is unknown"
        )
        if on_bad_rows == "error":
            raise DataError(bad_rows[0])
    if not chosen:
        raise DataError(f"no usable row, the first of {len(bad_rows)} bad ones: {bad_rows[0]}")
    return chosen, bad_rows


@dataclass(frozen=True)
class Looked:
    """What was found in some of the images of records, and in their rows."""

    problems: dict[int, str]
    """What is wrong, with its row, by the number of the record."""
    contents: dict[Path, str]
    """Digests of the images that can be decoded, as of
    :func:`prs_med.data.contents.content_digest`."""


@dataclass(frozen=True)
class Verified:
    """Records that can be used, and messages about those that cannot."""

    records: list[Record]
    bad_rows: list[str]
    contents: dict[Path, str]
    """As of :class:`Looked`."""

    @classmethod
    def of(cls, records: Sequence[Record], looked: Iterable[Looked]) -> Verified:
        """From what was found in all images of the records."""
        problems: dict[int, str] = {}
        contents: dict[Path, str] = {}
        for part in looked:
            problems |= part.problems
            contents |= part.contents
        return cls(
            records=[record for n, record in enumerate(records) if n not in problems],
            bad_rows=[problems[number] for number in sorted(problems)],
            contents=contents,
        )


def verify_files(
    records: Sequence[Record], prompts: PromptEncoder | None, workers: int, show_progress: bool
) -> Verified:
    """Decode every image and mask and tokenise every text once, so that a bad file or a text that
    is too long shows now and not after hours. Without ``prompts`` no text is tokenised."""
    return Verified.of(records, [look_into(records, prompts, workers, show_progress)])


def look_into(
    records: Sequence[Record],
    prompts: PromptEncoder | None,
    workers: int,
    show_progress: bool,
    rank: Rank = ONE_PROCESS,
) -> Looked:
    """Do one process's part of :func:`verify_files`. Each image is one process's with all its rows,
    and decoded once.

    Args:
        workers: threads that read and decode.
        show_progress: draw a bar, of this part.
    """
    rows_of: dict[Path, list[int]] = {}
    for number, record in enumerate(records):
        rows_of.setdefault(record.image_path, []).append(number)
    own = list(rows_of)[rank.index :: rank.world]

    def look(path: Path) -> Looked:
        return _look({number: records[number] for number in rows_of[path]}, path, prompts)

    problems: dict[int, str] = {}
    contents: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for looked in tqdm(
            pool.map(look, own),
            total=len(own),
            desc="checking files" if rank.world == 1 else f"checking 1/{rank.world} of the files",
            unit="image",
            disable=not show_progress,
            leave=False,
        ):
            problems |= looked.problems
            contents |= looked.contents
    return Looked(problems, contents)


def divide_usable(
    records: list[Record], settings: RowSettings, seed: int, workers: int, show_progress: bool
) -> tuple[Splits, list[str]]:
    """Divide rows as training does, which looks into all files before.

    With ``on_bad_rows skip``, rows whose files cannot be used are left out before images are held
    out, so that they change nothing for others.

    Returns:
        The splits, and messages about the rows that were left out.
    """
    splits = divide(records, settings, seed)
    if settings.on_bad_rows == "error" or not splits.how:
        return splits, []
    verified = verify_files(records, None, workers, show_progress)
    return divide(verified.records, settings, seed), verified.bad_rows


def _look(rows: Mapping[int, Record], path: Path, prompts: PromptEncoder | None) -> Looked:
    """Look into one image with its rows, which are given by number."""
    problems: dict[int, str] = {}

    def note(error: DataError, *numbers: int) -> None:
        for number in numbers:
            row_id, message = rows[number].row_id, str(error)
            named = message if message.startswith(row_id) else f"{row_id}: {message}"
            problems.setdefault(number, named)

    for number, record in rows.items():
        try:
            if prompts is not None:
                prompts.encode(record.question, record.answer, record.row_id)
        except DataError as error:
            note(error, number)
    try:
        image, content = _decoded(path)
    except DataError as error:
        note(error, *rows)
        return Looked(problems, {})
    of_mask: dict[tuple[Path, MaskClass | None], list[int]] = {}
    for number, record in rows.items():
        of_mask.setdefault((record.mask_path, record.mask_class), []).append(number)
    for (mask_path, mask_class), numbers in of_mask.items():
        try:
            mask = load_mask(mask_path, mask_class)
        except DataError as error:
            note(error, *numbers)
            continue
        for number in numbers:
            try:
                check_same_size(image, mask, rows[number].row_id)
            except DataError as error:
                note(error, number)
    return Looked(problems, {path: content})


def _decoded(path: Path) -> tuple[Image, str]:
    """An image, and the digest of its file."""
    image = load_image(path)
    try:
        # Its bytes are still in the system's cache.
        return image, content_digest(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def rows_digest(records: Iterable[Record]) -> str:
    """What tells these rows, in their order, from others."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.row_id}\0{record.question}\0{record.answer}\n".encode())
    return digest.hexdigest()


def modality_vocabulary(records: list[Record]) -> tuple[str, ...]:
    """The modalities that occur, in alphabetical order."""
    return tuple(sorted({record.modality for record in records if record.modality}))
