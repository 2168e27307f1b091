"""What each loader reads, as samples and as batches; for loader.py."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

BATCH = 32
CORES = 2
"""And decoding workers, where batches are measured."""

# Reading: each takes the source, a scratch folder, the number of images and the position to start
# at, prepares what a run would have saved at that position, and gives the function that is timed:
# it opens the data and gives samples (image, mask, text).

Sample = tuple[bytes, bytes, str]
Start = Callable[[], Iterator[Sample]]


def units_of_prs_med(source: str, at: int) -> Any:
    from prs_med.data.dataset.index import read_index
    from prs_med.data.order import Rank
    from prs_med.data.stream.row_group_source import RowGroupSource
    from prs_med.data.stream.training_stream import TrainingStream
    from prs_med.storage.location import open_store

    store = open_store(f"{source}/parquet")
    opened = read_index(store)
    stream = TrainingStream(
        opened, RowGroupSource(store, opened.split("train")), seed=0, global_batch=BATCH,
        shuffle_window=128, unit="question",
    )  # fmt: skip
    return stream.units_of(Rank(0, 1), at // BATCH, memory=1 << 30)


def sample_of_prs_med(unit: Any) -> Sample:
    target = unit.stored.targets[0]
    return unit.stored.image, target.mask, target.question


def read_prs_med(source: str, scratch: Path, images: int, at: int) -> Start:
    import prs_med.data.stream.training_stream
    import prs_med.storage.location  # noqa: F401

    return lambda: map(sample_of_prs_med, units_of_prs_med(source, at))


def open_datasets(source: str) -> Any:
    from datasets import Image, List, load_dataset

    remote = source.startswith("s3://")
    loaded = load_dataset(
        "parquet",
        data_files=f"{source}/parquet/data/train-*.parquet",
        split="train",
        streaming=True,
        storage_options={"endpoint_url": os.environ.get("AWS_ENDPOINT_URL")} if remote else None,
    )
    # Encoded, as from the other loaders.
    features = loaded.features
    features["image"] = Image(decode=False)
    features["targets"] = List({**features["targets"].feature, "mask": Image(decode=False)})
    return loaded.cast(features).shuffle(seed=0, buffer_size=100)


def sample_of_datasets(row: Any) -> Sample:
    target = row["targets"][0]
    return row["image"]["bytes"], target["mask"]["bytes"], target["question"]


def read_datasets(source: str, scratch: Path, images: int, at: int) -> Start:
    import datasets  # noqa: F401

    state = {}
    if at:
        dataset = open_datasets(source)
        for _ in itertools.islice(dataset, at):
            pass
        state = dataset.state_dict()

    def start() -> Iterator[Sample]:
        dataset = open_datasets(source)
        if at:
            dataset.load_state_dict(state)
        return map(sample_of_datasets, dataset)

    return start


def open_webdataset(source: str, images: int) -> Any:
    import webdataset

    count = -(-images // 250)
    base = f"{source}/tar"
    if source.startswith("s3://"):
        base = f"{os.environ['AWS_ENDPOINT_URL']}/{source.removeprefix('s3://')}/tar"
    urls = f"{base}/{{00000..{count - 1:05d}}}.tar"
    return webdataset.WebDataset(urls, shardshuffle=100, seed=0).shuffle(1000)


def sample_of_webdataset(entry: Any) -> Sample:
    return entry["image.png"], entry["mask.png"], entry["txt"].decode()


def read_webdataset(source: str, scratch: Path, images: int, at: int) -> Start:
    import webdataset  # noqa: F401

    def start() -> Iterator[Sample]:
        return map(
            sample_of_webdataset, itertools.islice(open_webdataset(source, images), at, None)
        )

    return start


def open_mosaic(source: str, scratch: Path) -> Any:
    from streaming import StreamingDataset

    remote = source.startswith("s3://")
    os.environ["S3_ENDPOINT_URL"] = os.environ.get("AWS_ENDPOINT_URL", "")
    return StreamingDataset(
        remote=f"{source}/mds" if remote else None,
        local=str(scratch / "mds") if remote else f"{source}/mds",
        shuffle=True,
        shuffle_seed=0,
        batch_size=BATCH,
    )


def sample_of_row(row: Any) -> Sample:
    return row["image"], row["mask"], row["text"]


def read_mosaic(source: str, scratch: Path, images: int, at: int) -> Start:
    import streaming  # noqa: F401

    def start() -> Iterator[Sample]:
        dataset = open_mosaic(source, scratch)
        if at:
            dataset.load_state_dict(dataset.state_dict(at, True))
        return map(sample_of_row, dataset)

    return start


def open_litdata(source: str, scratch: Path) -> Any:
    from litdata import StreamingDataset
    from litdata.streaming import downloader

    remote = source.startswith("s3://")
    # It has no setting for a server without TLS.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    return StreamingDataset(
        f"{source}/litdata",
        cache_dir=str(scratch / "chunks") if remote else None,
        shuffle=True,
        seed=0,
        storage_options={"endpoint_url": os.environ.get("AWS_ENDPOINT_URL")} if remote else {},
    )


def read_litdata(source: str, scratch: Path, images: int, at: int) -> Start:
    from litdata import StreamingDataLoader

    def opened() -> Any:
        dataset = open_litdata(source, scratch)
        return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=list)

    state = None
    if at:
        loader = opened()
        for _ in itertools.islice(loader, at // BATCH):
            pass
        state = loader.state_dict()
        del loader
        shutil.rmtree(scratch / "chunks", ignore_errors=True)

    def start() -> Iterator[Sample]:
        loader = opened()
        if at:
            loader.load_state_dict(state)
        return map(sample_of_row, itertools.chain.from_iterable(loader))

    return start


READERS: dict[str, Callable[[str, Path, int, int], Start]] = {
    "prs_med": read_prs_med,
    "datasets": read_datasets,
    "webdataset": read_webdataset,
    "mosaicml-streaming": read_mosaic,
    "litdata": read_litdata,
}


# Batches: each takes the source, a scratch folder and the number of images, and gives the function
# that is timed: it opens the data and gives batches without end.

StartBatches = Callable[[], Iterator[dict[str, Any]]]


def tensors(image: bytes, mask: bytes, text: str) -> dict[str, Any]:
    """A decoded sample, the same work for all loaders."""
    import numpy as np
    import torch

    from prs_med.data.images import decode_image, decode_mask

    return {
        "image": torch.from_numpy(np.array(decode_image(image, "image"))),
        "mask": torch.from_numpy(decode_mask(mask, "mask")),
        "text": text,
    }


def batches_of_prs_med(source: str, scratch: Path, images: int) -> StartBatches:
    from torch.utils.data import default_collate

    from prs_med.data.stream.streamed_data import batches_ahead

    def start() -> Iterator[dict[str, Any]]:
        return batches_ahead(
            units_of_prs_med(source, 0),
            lambda unit: [tensors(*sample_of_prs_med(unit))],
            default_collate,
            BATCH,
            CORES,
        )

    return start


def collated(sample_of: Callable[[Any], Sample], rows: list[Any]) -> dict[str, Any]:
    """A batch of what a loader gives; called in its workers."""
    from torch.utils.data import default_collate

    return default_collate([tensors(*sample_of(row)) for row in rows])


def in_workers(
    loader: Any, open_dataset: Callable[[], Any], sample_of: Callable[[Any], Sample]
) -> StartBatches:
    """Batches from the workers of torch's DataLoader, or of a class like it."""

    def start() -> Iterator[dict[str, Any]]:
        batches = loader(
            open_dataset(),
            batch_size=BATCH,
            num_workers=CORES,
            collate_fn=partial(collated, sample_of),
            persistent_workers=True,
        )
        while True:
            yield from batches

    return start


def batches_of_datasets(source: str, scratch: Path, images: int) -> StartBatches:
    import datasets  # noqa: F401
    from torch.utils.data import DataLoader

    return in_workers(DataLoader, lambda: open_datasets(source), sample_of_datasets)


def batches_of_webdataset(source: str, scratch: Path, images: int) -> StartBatches:
    import webdataset

    return in_workers(
        webdataset.WebLoader, lambda: open_webdataset(source, images), sample_of_webdataset
    )


def batches_of_mosaic(source: str, scratch: Path, images: int) -> StartBatches:
    from streaming import StreamingDataLoader

    return in_workers(StreamingDataLoader, lambda: open_mosaic(source, scratch), sample_of_row)


def batches_of_litdata(source: str, scratch: Path, images: int) -> StartBatches:
    from litdata import StreamingDataLoader

    return in_workers(StreamingDataLoader, lambda: open_litdata(source, scratch), sample_of_row)


BATCHES: dict[str, Callable[[str, Path, int], StartBatches]] = {
    "prs_med": batches_of_prs_med,
    "datasets": batches_of_datasets,
    "webdataset": batches_of_webdataset,
    "mosaicml-streaming": batches_of_mosaic,
    "litdata": batches_of_litdata,
}
