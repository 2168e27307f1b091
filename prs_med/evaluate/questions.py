"""Questions to answer, wherever they come from: annotation files, datasets, or single images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from prs_med.data.dataset.index import Split
from prs_med.data.dataset.small_columns import read_small_columns
from prs_med.data.dataset.stored import StoredImage, StoredTarget
from prs_med.data.images import check_same_size, decode_image, decode_mask, load_image, load_mask
from prs_med.data.listed import ListedQuestion
from prs_med.data.paths import image_of, mask_of
from prs_med.data.records import DataError, Record
from prs_med.data.sources import BadRow
from prs_med.data.split import image_name
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.storage.store import Store


@dataclass(frozen=True)
class Question:
    """What is asked about one image."""

    row_id: str
    """Names the row or the file, for messages and reports."""
    image: str
    """The image, as the data names it."""
    text: str
    answer: str | None
    """The reference answer; None where there is none."""
    modality: str | None
    group: str
    """Patient, study or image: answers about one group are not independent of each other."""
    mask: str = ""
    """The true mask, as the data names it; empty where there is none or it has no name."""
    answer_lost: bool = False
    """Whether there is a reference answer that cannot be read; ``answer`` is None then."""


class Questions(Protocol):
    """A sequence of questions. All methods may read, and be called from several threads."""

    def __len__(self) -> int: ...

    def question(self, number: int) -> Question:
        """What is asked.

        Raises:
            DataError: the data cannot be read.
        """

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """The image in RGB, and the true mask, (H, W) bool, where there is one.

        Raises:
            DataError: one of them cannot be used.
        """

    def truth(self, number: int) -> np.ndarray | None:
        """The true mask alone, (H, W) bool, also where the image cannot be used; None where there
        is none. Its size need not be that of the image.

        Raises:
            DataError: it cannot be used.
        """


class AnnotatedQuestions:
    """Rows of annotation files; those that cannot be used come last, and have no pixels."""

    def __init__(
        self, records: Sequence[Record], bad_rows: Sequence[BadRow], data_root: Path
    ) -> None:
        self._records = records
        self._bad_rows = bad_rows
        self._root = data_root.resolve()

    def __len__(self) -> int:
        return len(self._records) + len(self._bad_rows)

    def question(self, number: int) -> Question:
        """See :class:`Questions`."""
        if number >= len(self._records):
            return self._bad(self._bad_rows[number - len(self._records)])
        record = self._records[number]
        image = self._named(record.image_path)
        return Question(
            row_id=record.row_id,
            image=image,
            text=record.question,
            answer=record.answer or None,
            modality=record.modality,
            group=record.group or image_name(record.image_path, self._root),
            mask=self._named(record.mask_path),
        )

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """See :class:`Questions`."""
        if number >= len(self._records):
            raise DataError(self._bad_rows[number - len(self._records)].message)
        record = self._records[number]
        try:
            image, mask = load_image(record.image_path), load_mask(record.mask_path)
        except DataError as error:
            raise DataError(f"{record.row_id}: {error}") from None
        check_same_size(image, mask, record.row_id)
        return image, mask.astype(bool)

    def truth(self, number: int) -> np.ndarray | None:
        """See :class:`Questions`."""
        if number >= len(self._records):
            raise DataError(self._bad_rows[number - len(self._records)].message)
        return load_mask(self._records[number].mask_path).astype(bool)

    def _named(self, path: Path) -> str:
        """A path as the data names it: reports must not show where it lies."""
        return path.resolve().relative_to(self._root).as_posix()

    @staticmethod
    def _bad(row: BadRow) -> Question:
        return Question(
            row_id=row.row_id,
            image="",
            text=row.question,
            answer=row.answer or None,
            modality=row.modality or None,
            group=row.group or row.image or row.row_id,
            answer_lost=row.answer_lost,
        )


class StoredQuestions:
    """A split of a dataset of Parquet shards, in a folder or on S3."""

    def __init__(self, store: Store, split: Split) -> None:
        self._store = store
        self._source = RowGroupSource(store, split)
        self._ends = np.cumsum(self._source.targets())
        self._shards = split.shards
        self._shard_and_number = [
            (shard, number)
            for shard, stored in enumerate(split.shards)
            for number in range(len(stored.row_groups))
        ]
        # Questions come in order, so two row groups at a time are enough.
        self._row_group = lru_cache(2)(self._source.read)
        self._names_of_shard = lru_cache(2)(self._read_names)
        # Several threads would read one row group several times.
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def question(self, number: int) -> Question:
        """See :class:`Questions`."""
        group, within = self._place(number)
        with self._reading:
            row_group = self._row_group(group)
            shard, in_shard = self._shard_and_number[group]
            row = row_group.row_of(within)
            path, patient = self._names_of_shard(shard)[in_shard][row]
        stored = row_group.target(within)
        (target,) = stored.targets
        image = (
            path or f"{self._store.where(self._shards[shard].name)} row group {in_shard} row {row}"
        )
        return Question(
            row_id=target.row_id,
            image=image,
            text=target.question,
            answer=target.answer,
            modality=stored.modality,
            group=patient or image,
        )

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """See :class:`Questions`."""
        stored, target, where = self._stored(number)
        image, mask = decode_image(stored.image, where), decode_mask(target.mask, where)
        check_same_size(image, mask, where)
        return image, mask.astype(bool)

    def truth(self, number: int) -> np.ndarray | None:
        """See :class:`Questions`."""
        _, target, where = self._stored(number)
        return decode_mask(target.mask, where).astype(bool)

    def _stored(self, number: int) -> tuple[StoredImage, StoredTarget, str]:
        """The image, what is said of it, and where both are, for messages."""
        group, within = self._place(number)
        with self._reading:
            row_group = self._row_group(group)
        stored = row_group.target(within)
        (target,) = stored.targets
        return stored, target, f"{target.row_id} ({stored.where})"

    def _place(self, number: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, number, "right"))
        return group, number - int(self._ends[group - 1] if group else 0)

    def _read_names(self, shard: int) -> list[list[tuple[str, str]]]:
        """Path of the image and patient of each row of each row group."""
        return [
            [(row["image"]["path"] or "", row["group"] or "") for row in rows]
            for rows in read_small_columns(
                self._store, self._shards[shard], ["image.path", "group"]
            )
        ]


class ListedQuestions:
    """Rows of a CSV file that may lack answers and masks."""

    def __init__(self, rows: Sequence[ListedQuestion], root: Path) -> None:
        self._rows = rows
        self._root = root.resolve()

    def __len__(self) -> int:
        return len(self._rows)

    def question(self, number: int) -> Question:
        """See :class:`Questions`."""
        row = self._rows[number]
        return Question(
            row_id=row.row_id,
            image=str(row.image),
            text=row.question,
            answer=row.answer or None,
            modality=row.modality or None,
            group=str(row.image),
            mask=str(row.mask or ""),
        )

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """See :class:`Questions`."""
        row = self._rows[number]
        try:
            image = load_image(image_of(self._root, row.image, row.mask))
            mask = load_mask(mask_of(self._root, row.mask)) if row.mask else None
        except DataError as error:
            raise DataError(f"{row.row_id}: {error}") from None
        if mask is None:
            return image, None
        check_same_size(image, mask, row.row_id)
        return image, mask.astype(bool)

    def truth(self, number: int) -> np.ndarray | None:
        """See :class:`Questions`."""
        mask = self._rows[number].mask
        return load_mask(mask_of(self._root, mask)).astype(bool) if mask else None


class ImageQuestions:
    """One question about image files, whose answers nobody knows."""

    def __init__(self, paths: Sequence[Path], text: str) -> None:
        self._paths = paths
        self._text = text

    def __len__(self) -> int:
        return len(self._paths)

    def question(self, number: int) -> Question:
        """See :class:`Questions`."""
        path = self._paths[number]
        return Question(str(path), str(path), self._text, None, None, str(path))

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """See :class:`Questions`."""
        return load_image(self._paths[number]), None

    def truth(self, number: int) -> np.ndarray | None:
        """See :class:`Questions`."""
        return None


class SomeQuestions:
    """Some of other questions, in their order."""

    def __init__(self, questions: Questions, numbers: Sequence[int]) -> None:
        self._questions = questions
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def question(self, number: int) -> Question:
        """See :class:`Questions`."""
        return self._questions.question(self._numbers[number])

    def pixels(self, number: int) -> tuple[Image.Image, np.ndarray | None]:
        """See :class:`Questions`."""
        return self._questions.pixels(self._numbers[number])

    def truth(self, number: int) -> np.ndarray | None:
        """See :class:`Questions`."""
        return self._questions.truth(self._numbers[number])
