"""Training data that is streamed from a dataset in a folder or on S3."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from prs_med.batch import Batch
from prs_med.data.background import Background
from prs_med.data.collate import Collator
from prs_med.data.dataset.index import Shard, read_index
from prs_med.data.dataset.small_columns import TARGET, read_small_columns
from prs_med.data.order import Rank, evaluation_batches
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import DataError
from prs_med.data.samples import Preparation, Sample
from prs_med.data.stored_split import read_split
from prs_med.data.stream.disk_cache import DiskCache
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.stored_samples import StoredSamples
from prs_med.data.stream.training_stream import (
    StreamedUnit,
    StreamState,
    TrainingStream,
    evaluation_units,
    in_batches,
)
from prs_med.storage.location import open_store

_READY_BATCHES = 2
_VALIDATION_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class StreamOptions:
    """How a dataset is read; see the settings of these names."""

    seed: int
    unit: Literal["question", "image"]
    shuffle_window: int
    memory: int
    """Bytes of row groups in memory, per process."""
    num_workers: int
    cache_dir: Path | None
    cache_bytes: int


class StreamedData:
    """See :class:`prs_med.data.training_data.TrainingData`."""

    def __init__(self, uri: str, options: StreamOptions) -> None:
        """Reads ``dataset.json``.

        Raises:
            DataError: it is not there, or has no training split.
            StorageError: the name is none, or the cache cannot be written.
        """
        store = open_store(uri)
        self._options = options
        self._opened = read_index(store)
        self._store = store
        train = self._opened.split("train")
        val = self._opened.index.splits.get("val")
        cache = _cache(options)
        self._train = RowGroupSource(store, train, cache)
        self._val = RowGroupSource(store, val, cache) if val else None
        self.fingerprint = self._opened.fingerprint
        """Identity of the dataset."""
        self.units = train.rows if options.unit == "image" else train.targets
        self.validation_samples = val.targets if val else 0
        self.modalities = tuple(train.modalities)
        self.held_out = self._opened.index.held_out
        """How images were held out when the dataset was built; empty if by label."""
        self.shared_groups = self._opened.index.shared_groups
        """How many patients are in several of its splits; empty if none are."""
        self.split = read_split(store, self._opened.index.split_sha256)
        """The content of its ``split.json``; None in datasets of earlier versions."""
        self.longest_text = max(split.longest_text for split in (train, val) if split)

    def surely_fits(self, prompts: PromptEncoder) -> bool:
        """Whether no text can be too long, as most datasets tell without a look at them: a token
        is a byte at least."""
        return prompts.fits(self.longest_text)

    def check_lengths(self, prompts: PromptEncoder, rank: Rank) -> None:
        """Read one process's part of all texts, and make sure that none of it is too long.

        Raises:
            DataError: for the first text that is.
        """
        columns = [f"{TARGET}.{name}" for name in ("question", "answer", "row_id")]
        shards = [shard for name in ("train", "val") for shard in self._shards(name)]
        own = shards[rank.index :: rank.world]
        for shard in tqdm(
            own, desc="reading texts", unit="shard", disable=rank.index != 0, leave=False
        ):
            for rows in read_small_columns(self._store, shard, columns):
                for target in (target for row in rows for target in row["targets"]):
                    prompts.encode(target["question"], target["answer"], target["row_id"])

    def _shards(self, split: str) -> list[Shard]:
        found = self._opened.index.splits.get(split)
        return found.shards if found else []

    def stream(self, global_batch: int) -> TrainingStream:
        """The training sequence in global batches of this size."""
        return TrainingStream(
            self._opened,
            self._train,
            seed=self._options.seed,
            global_batch=global_batch,
            shuffle_window=self._options.shuffle_window,
            unit=self._options.unit,
        )

    def training_batches(
        self,
        preparation: Preparation,
        collator: Collator,
        *,
        micro_batch: int,
        accumulation: int,
        rank: Rank,
        first_step: int = 0,
    ) -> Background[Batch]:
        """See :class:`prs_med.data.training_data.TrainingData`; from global batch ``first_step``
        on. Close it in the end."""
        stream = self.stream(micro_batch * accumulation * rank.world)
        units = stream.units_of(rank, first_step, self._options.memory)
        return self._batches(units, preparation, collator, micro_batch)

    def state(self, global_batch: int, steps: int) -> dict[str, Any]:
        """See :class:`prs_med.data.training_data.TrainingData`."""
        return self.stream(global_batch).state(steps).dumps()

    def steps_of(self, state: dict[str, Any], global_batch: int) -> int:
        """See :class:`prs_med.data.training_data.TrainingData`."""
        return self.stream(global_batch).steps_of(StreamState.parse(state))

    def validation_batches(
        self, preparation: Preparation, collator: Collator, *, micro_batch: int, rank: Rank
    ) -> Iterator[Batch]:
        """See :class:`prs_med.data.training_data.TrainingData`."""
        order = evaluation_batches(self.validation_samples, micro_batch, rank)
        units = self._validation_units([number for batch in order for number in batch])
        with closing(self._batches(units, preparation, collator, micro_batch)) as batches:
            yield from batches

    def read_validation(
        self, preparation: Preparation, numbers: Sequence[int]
    ) -> Generator[Sample]:
        """See :class:`prs_med.data.training_data.TrainingData`."""
        make = StoredSamples(preparation, self._options.seed).make
        with closing(self._validation_units(numbers)) as units:
            for unit in units:
                yield from make(unit)

    def _validation_units(self, numbers: Sequence[int | None]) -> Generator[StreamedUnit]:
        if self._val is None:
            raise DataError(f"{self._store.uri} has no validation split")
        # Read from one end to the other, so that little is held.
        memory = min(self._options.memory, _VALIDATION_MEMORY)
        return evaluation_units(self._val, numbers, memory)

    def _batches(
        self,
        units: Generator[StreamedUnit],
        preparation: Preparation,
        collator: Collator,
        micro_batch: int,
    ) -> Background[Batch]:
        make = StoredSamples(preparation, self._options.seed).make
        return batches_ahead(units, make, collator, micro_batch, self._options.num_workers)


def batches_ahead(
    units: Generator[StreamedUnit],
    make: Callable[[StreamedUnit], list[Sample]],
    collator: Callable[[list[Sample]], Batch],
    micro_batch: int,
    workers: int,
) -> Background[Batch]:
    """Batches of ``micro_batch`` units, made in the background by ``workers`` threads.

    ``make`` gives the samples of a unit and is called in several threads. Close it in the end.
    """
    # A caller that has no number of threads yet would take over the one that the loader sets.
    torch.get_num_threads()
    return Background(_made(units, make, collator, micro_batch, workers), _READY_BATCHES)


def _made(
    units: Generator[StreamedUnit],
    make: Callable[[StreamedUnit], list[Sample]],
    collator: Callable[[list[Sample]], Batch],
    micro_batch: int,
    workers: int,
) -> Iterator[Batch]:
    """Batches of units that several threads decode and prepare, in the order of the units.

    Threads rather than processes: decoding, scaling and tokenising run outside Python's lock, a
    process would start with seconds of imports for every loader of every rank, and would have to
    be sent all bytes.
    """
    # PyTorch would give every thread that copies an image helpers on all cores, which spin while
    # they wait for work. The setting counts for the thread that makes it.
    torch.set_num_threads(1)
    waiting: deque[list[Future[list[Sample]]]] = deque()
    decoding = ThreadPoolExecutor(max(1, workers), "decode", torch.set_num_threads, (1,))
    with closing(units), decoding as pool:
        try:
            for batch in in_batches(units, micro_batch):
                waiting.append([pool.submit(make, unit) for unit in batch])
                # Enough for all threads, whatever the size of a batch.
                if sum(map(len, waiting)) >= 2 * workers + micro_batch:
                    yield _collated(waiting.popleft(), collator)
            while waiting:
                yield _collated(waiting.popleft(), collator)
        finally:
            pool.shutdown(cancel_futures=True)


def _collated(
    futures: list[Future[list[Sample]]], collator: Callable[[list[Sample]], Batch]
) -> Batch:
    batch = collator([sample for future in futures for sample in future.result()])
    return batch.pin_memory() if torch.cuda.is_available() else batch


def _cache(options: StreamOptions) -> DiskCache | None:
    if options.cache_dir is None:
        return None
    try:
        return DiskCache(options.cache_dir, options.cache_bytes)
    except OSError as error:
        raise DataError(f"--cache_dir {options.cache_dir}: {error.strerror}") from None
