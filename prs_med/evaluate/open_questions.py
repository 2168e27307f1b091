"""Which questions the settings name, opened."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from prs_med.answering_config import AskedSettings, InferenceSettings
from prs_med.config import Settings
from prs_med.data.dataset.index import read_index
from prs_med.data.listed import read_listed
from prs_med.data.records import DataError, Record
from prs_med.data.rows import annotation_paths, divide_usable, tasks_in
from prs_med.data.sources import Annotations, BadRow, check_tasks, read_annotations
from prs_med.data.stored_split import StoredSplit, read_split
from prs_med.evaluate.image_folder import image_folder
from prs_med.evaluate.questions import (
    AnnotatedQuestions,
    ImageQuestions,
    ListedQuestions,
    Questions,
    SomeQuestions,
    StoredQuestions,
)
from prs_med.storage.location import open_store

_logger = logging.getLogger("prs_med")


@dataclass(frozen=True)
class OpenedQuestions:
    """Questions, and what tells them from others."""

    questions: Questions
    source: str
    """Where they come from, for reports."""
    identity: str
    """Differs where the questions do."""


def open_split(
    settings: AskedSettings, trained_with: Settings, strict: bool, split: bytes | None = None
) -> OpenedQuestions:
    """The questions of a split, as the training of the model had it.

    Args:
        settings: which data, and which part of it.
        trained_with: the settings that the model was trained with.
        strict: whether a row that cannot be used is an error; else it is one of the questions, and
            has no pixels.
        split: content of ``split.json`` of that training. Without it, as with weights from
            elsewhere or of earlier versions, rows are divided again as these settings say.

    Raises:
        DataError: for a row that cannot be used, if there is none, or if the data does not fit the
            training's split.
        StorageError: the dataset cannot be read.
    """
    trained = None if split is None else StoredSplit.parse(split, "split.json of the checkpoint")
    if settings.data:
        return _stored(settings, trained)
    return _annotated(settings, trained_with, strict, trained)


def open_asked(
    settings: InferenceSettings,
    trained_with: Settings,
    split: bytes | None = None,
    written: Collection[Path] = (),
) -> OpenedQuestions:
    """The questions that inference is to answer; other arguments as of :func:`open_split`.

    Args:
        written: what inference writes: it may lie below the folder of images.

    Raises:
        DataError, StorageError: as :func:`open_split`.
    """
    if settings.image or settings.images:
        paths = [Path(settings.image or "")]
        if settings.images:
            found = image_folder(Path(settings.images), written)
            paths = found.images
            if passed_over := found.passed_over():
                _logger.warning("--images %s: %s", settings.images, passed_over)
        images = ImageQuestions(paths, settings.question or "")
        source = settings.image or settings.images or ""
        return OpenedQuestions(images, source, identity_of([settings.question, *map(str, paths)]))
    if settings.csv:
        file = Path(settings.csv)
        root = Path(settings.data_root) if settings.data_root else file.parent
        rows = read_listed(file, root)
        return OpenedQuestions(ListedQuestions(rows, root), settings.csv, identity_of(rows))
    opened = open_split(settings, trained_with, settings.strict, split)
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


def _stored(settings: AskedSettings, trained: StoredSplit | None) -> OpenedQuestions:
    store = open_store(settings.data or "")
    opened = read_index(store)
    split = opened.split(settings.split)
    content = read_split(store, opened.index.split_sha256) if trained is not None else None
    if trained is not None and content is not None:
        there = StoredSplit.parse(content, store.where("split.json"))
        trained.refuse_trained(there, settings.split, store.uri)
    if opened.index.shared_groups:
        _logger.warning("%s: %s", store.uri, opened.index.shared_groups)
    return OpenedQuestions(
        StoredQuestions(store, split), store.uri, f"{opened.fingerprint} {settings.split}"
    )


def _annotated(
    settings: AskedSettings, trained_with: Settings, strict: bool, trained: StoredSplit | None
) -> OpenedQuestions:
    root = Path(settings.data_root or "")
    # As training read them, unless they may be other data.
    held_out = trained is not None and settings.split in trained.held_out
    as_trained = settings.split != "test" or held_out
    annotations = read_annotations(
        root,
        annotation_paths(settings.ann_paths),
        "error" if strict else "skip",
        settings.group_column or (trained_with.group_column if as_trained else None),
        tasks_in(trained_with.tasks) if as_trained else None,
        need_answers=False,
        likely_group_column=trained_with.group_column,
    )
    if annotations.repaired_rows:
        _logger.info(
            "repaired unquoted commas in %d rows, the first: %s",
            len(annotations.repaired_rows),
            annotations.repaired_rows[0],
        )
    if trained is not None:
        records, bad_rows = _read_back(settings, annotations, trained)
    else:
        records = _divided_again(settings, trained_with, annotations)
        bad_rows = _bad_rows_of(settings.split, annotations.skipped)
    if not records and not bad_rows:
        raise DataError(
            f"--split {settings.split}: no row of {settings.data_root} is labelled so, and "
            "training held out none for it (--val_fraction, --test_fraction)"
        )
    records, bad_rows = _of_tasks(tasks_in(settings.tasks), records, bad_rows, settings.split)
    questions = AnnotatedQuestions(records, bad_rows, root)
    return OpenedQuestions(questions, str(root), identity_of([*records, *bad_rows]))


def _read_back(
    settings: AskedSettings, annotations: Annotations, trained: StoredSplit
) -> tuple[list[Record], list[BadRow]]:
    """The rows and the bad rows of the split, as it is stored with the weights."""
    bad_images = [row.image for row in annotations.skipped if row.image]
    read = trained.read_back(annotations.records, settings.split, bad_images)
    for note in read.notes:
        _logger.warning("%s", note)
    decided: list[BadRow] = []
    nowhere = 0
    for row in annotations.skipped:
        split = trained.split_of(row.image) if row.image else None
        if split is None and row.split in ("", "train") and trained.held_out:
            # A bad row of the training, too, or one that it never saw.
            nowhere += 1
        else:
            decided.append(replace(row, split=split or row.split))
    if nowhere:
        _logger.warning(
            "--split %s: %d bad rows are left out, since training put them into no split; the "
            "first: %s",
            settings.split,
            nowhere,
            next(r.message for r in annotations.skipped if r.split in ("", "train")),
        )
    return read.records, _bad_rows_of(settings.split, decided)


def _divided_again(
    settings: AskedSettings, trained_with: Settings, annotations: Annotations
) -> list[Record]:
    """The rows of the split, for weights that have none stored with them."""
    if settings.split == "test":
        # What is held out for validation makes no difference to it.
        trained_with = replace(trained_with, val_fraction=0.0, fold=None)
    splits, _ = divide_usable(
        annotations.records,
        trained_with,
        trained_with.seed,
        settings.num_workers,
        show_progress=False,
    )
    if splits.held_out or splits.test_held_out:
        unlabelled = "val" if splits.held_out else "test"
        if trained_with.data:
            raise DataError(
                f"--split {settings.split}: no row is labelled {unlabelled}, and which images "
                f"training held out was decided when the dataset {trained_with.data} was built; "
                "label the rows, or give --data"
            )
        if settings.group_column:
            raise DataError(
                f"--group_column {settings.group_column}: no row is labelled {unlabelled}, the "
                "weights come without split.json, and training held out images by "
                f"{trained_with.group_column or 'the columns it knows'}; drop it, or label the rows"
            )
        _logger.warning(
            "--split %s: the weights come without split.json, so images are held out again, as "
            "--seed and --val_fraction of the training say; that these are the same is not certain",
            settings.split,
        )
    if splits.shared_groups:
        _logger.warning("%s", splits.shared_groups_text)
    return {"train": splits.train, "val": splits.val, "test": splits.test}[settings.split]


def _bad_rows_of(split: str, skipped: Sequence[BadRow]) -> list[BadRow]:
    """The bad rows of a split. Of one without a label nobody knows whether it is."""
    for row in skipped:
        if not row.split:
            raise DataError(row.message)
    return [row for row in skipped if row.split == split]


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
