"""Which questions the settings name, opened."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from prs_med.answering_config import AskedSettings, InferenceSettings
from prs_med.config import Settings
from prs_med.data.dataset.index import read_index
from prs_med.data.listed import read_listed
from prs_med.data.records import DataError, Record
from prs_med.data.rows import annotation_paths, tasks_in
from prs_med.data.sources import BadRow, check_tasks, read_annotations
from prs_med.data.split import split_records
from prs_med.evaluate.questions import (
    AnnotatedQuestions,
    ImageQuestions,
    ListedQuestions,
    Questions,
    SomeQuestions,
    StoredQuestions,
    images_in,
)
from prs_med.storage.location import open_store


@dataclass(frozen=True)
class OpenedQuestions:
    """Questions, and what tells them from others."""

    questions: Questions
    source: str
    """Where they come from, for reports."""
    identity: str
    """Differs where the questions do."""


def open_split(settings: AskedSettings, trained_with: Settings, strict: bool) -> OpenedQuestions:
    """The questions of a split; images that training held out are held out again in the same way.

    Args:
        settings: which data, and which part of it.
        trained_with: the settings that the model was trained with.
        strict: whether a row that cannot be used is an error; else it is one of the questions, and
            has no pixels.

    Raises:
        DataError: for a row that cannot be used, or if there is none.
        StorageError: the dataset cannot be read.
    """
    if settings.data:
        return _stored(settings)
    return _annotated(settings, trained_with, strict)


def open_asked(settings: InferenceSettings, trained_with: Settings) -> OpenedQuestions:
    """The questions that inference is to answer.

    Raises:
        DataError, StorageError: as :func:`open_split`.
    """
    if settings.image or settings.images:
        paths = (
            images_in(Path(settings.images)) if settings.images else [Path(settings.image or "")]
        )
        images = ImageQuestions(paths, settings.question or "")
        source = settings.image or settings.images or ""
        return OpenedQuestions(images, source, identity_of([settings.question, *map(str, paths)]))
    if settings.csv:
        file = Path(settings.csv)
        root = Path(settings.data_root) if settings.data_root else file.parent
        rows = read_listed(file, root)
        return OpenedQuestions(ListedQuestions(rows, root), settings.csv, identity_of(rows))
    opened = open_split(settings, trained_with, settings.strict)
    total = len(opened.questions)
    if not 0 < settings.num_samples < total:
        return opened
    chosen = sorted(random.Random(settings.seed).sample(range(total), settings.num_samples))
    return replace(opened, questions=SomeQuestions(opened.questions, chosen))


def identity_of(parts: Sequence[Any]) -> str:
    """A digest of JSON values and dataclasses of them."""
    digest = hashlib.sha256()
    for part in parts:
        value = asdict(part) if is_dataclass(part) and not isinstance(part, type) else part
        digest.update(json.dumps(value, default=str, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _stored(settings: AskedSettings) -> OpenedQuestions:
    store = open_store(settings.data or "")
    opened = read_index(store)
    split = opened.split(settings.split)
    return OpenedQuestions(
        StoredQuestions(store, split), store.uri, f"{opened.fingerprint} {settings.split}"
    )


def _annotated(settings: AskedSettings, trained_with: Settings, strict: bool) -> OpenedQuestions:
    root = Path(settings.data_root or "")
    # Read and split exactly as in training, so that the same images are held out; then choose.
    annotations = read_annotations(
        root,
        annotation_paths(settings.ann_paths),
        "error" if strict else "skip",
        settings.group_column or (trained_with.group_column if settings.split != "test" else None),
        tasks_in(trained_with.tasks) if settings.split != "test" else None,
        need_answers=False,
        likely_group_column=trained_with.group_column,
    )
    if annotations.repaired_rows:
        logging.getLogger("prs_med").info(
            "repaired unquoted commas in %d rows, the first: %s",
            len(annotations.repaired_rows),
            annotations.repaired_rows[0],
        )
    splits = split_records(annotations.records, trained_with.val_fraction, trained_with.seed)
    if settings.split != "test" and splits.held_out and trained_with.data:
        raise DataError(
            f"--split {settings.split}: no row is labelled val, and which images training held out "
            f"was decided when the dataset {trained_with.data} was built; label the rows"
        )
    if settings.split != "test" and splits.held_out and settings.group_column:
        raise DataError(
            f"--group_column {settings.group_column}: no row is labelled val, and training held "
            f"out images by {trained_with.group_column or 'the columns it knows'}; drop it, or "
            "label the rows"
        )
    records = {"train": splits.train, "val": splits.val, "test": splits.test}[settings.split]
    bad_rows = _bad_rows_of(settings, annotations.skipped)
    if not records and not bad_rows:
        raise DataError(f"--split {settings.split}: no row of {settings.data_root} is labelled so")
    records, bad_rows = _of_tasks(tasks_in(settings.tasks), records, bad_rows, settings.split)
    questions = AnnotatedQuestions(records, bad_rows, root)
    return OpenedQuestions(questions, str(root), identity_of([*records, *bad_rows]))


def _bad_rows_of(settings: AskedSettings, skipped: Sequence[BadRow]) -> list[BadRow]:
    """The bad rows among those to be asked. Of one without a label nobody knows whether it is."""
    for row in skipped:
        if not row.split:
            raise DataError(row.message)
    return [row for row in skipped if row.split == settings.split]


def _of_tasks(
    tasks: Sequence[str] | None, records: list[Record], bad_rows: list[BadRow], split: str
) -> tuple[list[Record], list[BadRow]]:
    """The rows of a split that are of these tasks, each of which has some.

    Raises:
        DataError: no row has one of the tasks, or nobody knows whether a bad row has.
    """
    if tasks is None:
        return records, bad_rows
    there = {record.task for record in records} | {row.task for row in bad_rows}
    check_tasks(tasks, there, f"no row of --split {split} has it; its rows have")
    for row in bad_rows:
        if not row.task:
            raise DataError(row.message)
    return (
        [record for record in records if record.task in tasks],
        [row for row in bad_rows if row.task in tasks],
    )
