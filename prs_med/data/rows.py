"""Read the rows that settings name, and try all that they need once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from prs_med.config import RowSettings, names_in
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError, Record
from prs_med.data.sources import Annotations, read_annotations
from prs_med.data.split import Splits, divide
from prs_med.mask_classes import MaskClass, class_named


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
class Verified:
    """Records that can be used, and messages about those that cannot."""

    records: list[Record]
    bad_rows: list[str]


def verify_files(
    records: list[Record], prompts: PromptEncoder | None, workers: int, show_progress: bool
) -> Verified:
    """Decode every image and mask and tokenise every text once, so that a bad file or a text that
    is too long shows now and not after hours. Without ``prompts`` no text is tokenised."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        problems = list(
            tqdm(
                pool.map(partial(_problem_of, prompts=prompts), records),
                total=len(records),
                desc="checking files",
                unit="row",
                disable=not show_progress,
                leave=False,
            )
        )
    pairs = zip(records, problems, strict=True)
    return Verified(
        records=[record for record, problem in pairs if problem is None],
        bad_rows=[problem for problem in problems if problem is not None],
    )


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


def _problem_of(record: Record, prompts: PromptEncoder | None) -> str | None:
    try:
        if prompts is not None:
            prompts.encode(record.question, record.answer, record.row_id)
        mask = load_mask(record.mask_path, record.mask_class)
        check_same_size(load_image(record.image_path), mask, record.row_id)
    except DataError as error:
        message = str(error)
        return message if message.startswith(record.row_id) else f"{record.row_id}: {message}"
    return None


def modality_vocabulary(records: list[Record]) -> tuple[str, ...]:
    """The modalities that occur, in alphabetical order."""
    return tuple(sorted({record.modality for record in records if record.modality}))
