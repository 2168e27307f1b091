"""The training sequence of one process, read from a dataset in a folder or on S3."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np

from prs_med.data.dataset.index import OpenedIndex
from prs_med.data.dataset.stored import StoredImage
from prs_med.data.order import Rank
from prs_med.data.records import DataError
from prs_med.data.same_sequence import check_same_sequence
from prs_med.data.stream.freed_memory import keep_freed_memory
from prs_med.data.stream.read_ahead import ReadAhead
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.stream_order import StreamOrder, Unit

_READERS = 8
_HORIZON_LIMIT = 32768

UnitKind = Literal["question", "image"]


@dataclass(frozen=True)
class StreamState:
    """Where a training sequence stands: all that is needed to go on, on any number of processes."""

    dataset: str
    """Fingerprint of ``dataset.json``."""
    unit: UnitKind
    """What a global batch counts: questions, or images with all their questions."""
    seed: int
    global_batch: int
    shuffle_window: int
    steps: int
    """Global batches that were trained on."""

    def dumps(self) -> dict[str, Any]:
        """The state as JSON values."""
        return asdict(self)

    @staticmethod
    def parse(loaded: dict[str, Any]) -> StreamState:
        """A state from its JSON values.

        Raises:
            DataError: it is none.
        """
        try:
            return StreamState(**loaded)
        except TypeError as error:
            raise DataError(f"not the state of a data stream ({error})") from None


class StreamedUnit(NamedTuple):
    """An image with the question or questions of one unit."""

    stored: StoredImage
    position: int | None
    """Its place in the training sequence; None in an evaluation."""
    counts: bool = True
    """False for filling at the end of an evaluation."""


class TrainingStream:
    """Global batch k is a function of dataset, seed, size of the batch, window and k alone."""

    def __init__(
        self,
        opened: OpenedIndex,
        source: RowGroupSource,
        *,
        seed: int,
        global_batch: int,
        shuffle_window: int,
        unit: UnitKind,
    ) -> None:
        """``source`` reads the row groups of the split to train on."""
        sizes = source.targets() if unit == "question" else source.rows()
        self._source = source
        self._unit: UnitKind = unit
        self._order = StreamOrder(sizes, seed, global_batch, shuffle_window)
        self._start = StreamState(
            dataset=opened.fingerprint,
            unit=unit,
            seed=seed,
            global_batch=global_batch,
            shuffle_window=shuffle_window,
            steps=0,
        )

    @property
    def units(self) -> int:
        """Units of an epoch."""
        return self._order.units

    def state(self, steps: int) -> StreamState:
        """The state after ``steps`` global batches. What was read ahead does not count."""
        return replace(self._start, steps=steps)

    def steps_of(self, state: StreamState) -> int:
        """How many global batches of this very sequence a saved state has behind it.

        Raises:
            DataError: the state is one of another sequence, which it names.
        """
        check_same_sequence(self._start.dumps(), state.dumps())
        return state.steps

    def units_of(self, rank: Rank, first_step: int, memory: int) -> Generator[StreamedUnit]:
        """The units of one process from global batch ``first_step`` on, without end.

        Args:
            rank: the process.
            first_step: global batches that come before.
            memory: bytes that row groups may take up.

        Raises:
            DataError: a row group is missing or damaged.
            ValueError: the global batch cannot be divided by the number of processes.
        """
        keep_freed_memory()
        # Within an epoch each row group comes up, so there is no need to look further.
        ahead = min(self._order.reach(rank.world), -(-self._order.units // rank.world))
        reader = ReadAhead(
            self._source,
            self._order.sequence(first_step, rank),
            memory=memory,
            threads=_READERS,
            horizon=min(_HORIZON_LIMIT, ahead + 64),
        )
        for row_group, unit in reader:
            pick = row_group.target if self._unit == "question" else row_group.image
            yield StreamedUnit(pick(unit.number), unit.position)


def evaluation_units(
    source: RowGroupSource, numbers: Sequence[int | None], memory: int
) -> Generator[StreamedUnit]:
    """The questions of a split with these numbers, counted from 0 in stored order; None gives
    filling. See :func:`prs_med.data.order.evaluation_batches`.

    Raises:
        DataError: a row group is missing or damaged.
    """
    ends = np.cumsum(source.targets())
    total = int(ends[-1])

    def places() -> Iterator[Unit]:
        for number in numbers:
            # What fills up is the last question, which is at hand.
            at = total - 1 if number is None else number
            group = int(np.searchsorted(ends, at, "right"))
            yield Unit(at, group, at - int(ends[group - 1] if group else 0))

    reader = ReadAhead(source, places(), memory=memory, threads=_READERS, horizon=_HORIZON_LIMIT)
    for (row_group, unit), number in zip(reader, numbers, strict=True):
        yield StreamedUnit(row_group.target(unit.number), None, counts=number is not None)


def in_batches(units: Iterator[StreamedUnit], size: int) -> Iterator[list[StreamedUnit]]:
    """Units in lists of ``size``."""
    while batch := list(islice(units, size)):
        yield batch
