"""What training asks of its data, wherever that lies, and the data that lies in local files."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler

from prs_med.batch import Batch
from prs_med.data.collate import Collator
from prs_med.data.loader_workers import GuardedLoader
from prs_med.data.order import Rank, evaluation_batches, training_positions
from prs_med.data.records import Record
from prs_med.data.rows import modality_vocabulary, rows_digest
from prs_med.data.same_sequence import check_same_sequence
from prs_med.data.samples import Preparation, Sample, SampleDataset, TrainingSamples


class Batches(Protocol):
    """Batches one after the other; to be closed when no more are needed."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """End the processes and threads behind it."""


class TrainingData(Protocol):
    """Samples to train on and to validate with."""

    units: int
    """What an epoch counts: questions, or images in batches by image."""
    validation_samples: int
    modalities: tuple[str, ...]
    """Those of the training samples, in alphabetical order."""

    def training_batches(
        self,
        preparation: Preparation,
        collator: Collator,
        *,
        micro_batch: int,
        accumulation: int,
        rank: Rank,
        first_step: int = 0,
    ) -> Batches:
        """Endless micro-batches of one process, ``accumulation`` of them in a global batch, from
        global batch ``first_step`` on."""

    def state(self, global_batch: int, steps: int) -> dict[str, Any]:
        """What a run keeps about its data, as JSON values, after so many global batches."""

    def steps_of(self, state: dict[str, Any], global_batch: int) -> int:
        """How many global batches of this very sequence a kept state has behind it.

        Raises:
            DataError: it is the state of another sequence, which it names.
        """

    def validation_batches(
        self, preparation: Preparation, collator: Collator, *, micro_batch: int, rank: Rank
    ) -> Iterable[Batch]:
        """Micro-batches of one process that, over all, hold every sample exactly once."""

    def read_validation(
        self, preparation: Preparation, numbers: Sequence[int]
    ) -> Generator[Sample]:
        """The validation samples of these numbers (from 0), one after the other; to be closed."""


class LocalData:
    """Rows of annotation files, whose images and masks are read as they are needed."""

    def __init__(
        self, train: list[Record], val: list[Record], *, seed: int, num_workers: int
    ) -> None:
        self._train = train
        self._val = val
        self._seed = seed
        self._num_workers = num_workers
        self.units = len(train)
        self.validation_samples = len(val)
        self.modalities = modality_vocabulary(train)

    def training_batches(
        self,
        preparation: Preparation,
        collator: Collator,
        *,
        micro_batch: int,
        accumulation: int,
        rank: Rank,
        first_step: int = 0,
    ) -> Generator[Batch]:
        """See :class:`TrainingData`."""
        samples = TrainingSamples(SampleDataset(self._train, preparation), self._seed)
        positions = training_positions(micro_batch, accumulation, rank, first_step)
        yield from self._loader(samples, collator, positions)

    def state(self, global_batch: int, steps: int) -> dict[str, Any]:
        """See :class:`TrainingData`."""
        return {
            "rows": rows_digest(self._train),
            "seed": self._seed,
            "global_batch": global_batch,
            "steps": steps,
        }

    def steps_of(self, state: dict[str, Any], global_batch: int) -> int:
        """See :class:`TrainingData`."""
        check_same_sequence(self.state(global_batch, 0), state)
        return int(state["steps"])

    def validation_batches(
        self, preparation: Preparation, collator: Collator, *, micro_batch: int, rank: Rank
    ) -> Iterable[Batch]:
        """See :class:`TrainingData`."""
        order = evaluation_batches(len(self._val), micro_batch, rank)
        return self._loader(SampleDataset(self._val, preparation), collator, order)

    def read_validation(
        self, preparation: Preparation, numbers: Sequence[int]
    ) -> Generator[Sample]:
        """See :class:`TrainingData`."""
        samples = SampleDataset(self._val, preparation)
        for number in numbers:
            yield samples[number]

    def _loader(
        self, dataset: Any, collator: Collator, order: Iterable[list[Any]]
    ) -> GuardedLoader:
        return GuardedLoader(
            dataset,
            batch_sampler=BatchOrder(order),
            collate_fn=collator,
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
        )


class BatchOrder(Sampler[list[Any]]):
    """The keys of each batch, as they come."""

    def __init__(self, batches: Iterable[list[Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._batches)
