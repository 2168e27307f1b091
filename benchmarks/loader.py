"""Loaders side by side: samples per second and core, batches per second as training takes them,
and the time to go on at 90 % of an epoch.

    pip install --no-deps -r benchmarks/requirements.txt
    python benchmarks/loader.py --output runs/loader --ceph
    python benchmarks/loader.py --loaders prs_med,litdata --only speed --rounds 20

The same images and masks are written in each loader's own format, to disk and, with --ceph, to a
Ceph gateway that is started for this. Each measurement is a process of its own that is bound to the
first core, while the gateway has the others; loaders take turns in every round, in an order that
rotates, so that what else the machine does meets all of them. Every loader shuffles, and decodes
each image and mask by the same function, which takes most of the time.

Reading: the same without decoding, so that what differs between the loaders can be seen.

Batches (from disk): two epochs in batches of 32 decoded samples, tensors of uint8, are handed to
the main process on two cores. The others decode and collate in two worker processes of their own
loader or torch's, which are kept between the epochs; ours in two threads, by the function that
training uses. The time counts from opening the data, start of workers included.

Going on: the loader's own state of 90 % of an epoch is loaded into a fresh process, and the first
32 samples are timed. webdataset has no such state: it reads again what came before, undecoded. What
'datasets' has in its shuffle buffer (100) is lost when it goes on; webdataset's buffer is 1000.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH = 32
CORES = 2
"""And decoding workers, where batches are measured."""
LOADERS = ("prs_med", "datasets", "webdataset", "mosaicml-streaming", "litdata")
MEASUREMENTS = ("speed", "reading", "resume", "batches")


def main() -> None:
    """Write the data, measure all loaders in turns, print a table and write results.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", default="runs/loader", help="folder for data and results.json")
    parser.add_argument("--ceph", action="store_true", help="measure with S3 as well")
    parser.add_argument("--s3", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loaders", default=",".join(LOADERS), help="comma-separated")
    parser.add_argument(
        "--only", default=",".join(MEASUREMENTS), help=f"some of {','.join(MEASUREMENTS)}"
    )
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    output = Path(arguments.output).resolve()
    if arguments.measure:
        loader, place, what = arguments.measure
        print(json.dumps(measure(output, arguments, loader, place, what)))
        return
    if arguments.ceph:
        start_ceph(arguments)
    write_all(output, arguments)
    loaders, only = arguments.loaders.split(","), arguments.only.split(",")
    places = ["disk", *(["s3"] if arguments.s3 else [])]
    wanted = [
        (place, what)
        for place, what in (
            *itertools.product(places, ("speed", "reading", "resume")),
            ("disk", "batches"),
        )
        if what in only
    ]
    results: dict[str, list[float]] = {}
    for number in range(arguments.rounds):
        first = number % len(loaders)
        for place, what in wanted:
            for loader in loaders[first:] + loaders[:first]:
                value = run_one(arguments, loader, place, what)
                results.setdefault(f"{what}/{place}/{loader}", []).append(value)
                print(f"round {number + 1} {what} {place} {loader}: {value:.3f}", flush=True)
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results, places, loaders))


def start_ceph(arguments: argparse.Namespace) -> None:
    """Start a gateway on all cores but the first, and point the environment to it."""
    from tests.services.ceph import CephGateway

    os.sched_setaffinity(0, os.sched_getaffinity(0) - {0})
    gateway = CephGateway(Path(tempfile.mkdtemp(prefix="ceph-"))).start()
    atexit.register(gateway.stop)
    os.environ.update(gateway.environment())
    gateway.client().create_bucket(Bucket="loaders")
    arguments.s3 = "s3://loaders/data"


def table(results: dict[str, list[float]], places: list[str], loaders: list[str]) -> str:
    """Medians, and of the speeds the median ratio of ours to each within one round."""

    def speed(what: str, place: str, loader: str) -> str:
        ours, speeds = (results.get(f"{what}/{place}/{name}") for name in ("prs_med", loader))
        if speeds is None:
            return "| |"
        if ours is None:
            return f"{statistics.median(speeds):.0f} | |"
        ratio = statistics.median(a / b for a, b in zip(ours, speeds, strict=True))
        return f"{statistics.median(speeds):.0f} | {ratio:.2f} |"

    lines = [
        "| from | loader | samples/s on one core | ours / this | not decoded | ours / this "
        "| in batches on two cores, samples/s per core | ours / this | seconds to go on at 90 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place, loader in itertools.product(places, loaders):
        resumes = results.get(f"resume/{place}/{loader}")
        resume = f"{statistics.median(resumes):.2f} " if resumes else ""
        one, read, two = (speed(what, place, loader) for what in ("speed", "reading", "batches"))
        lines.append(f"| {place} | {loader} | {one} {read} {two} {resume}|")
    return "\n".join(lines)


def run_one(arguments: argparse.Namespace, loader: str, place: str, what: str) -> float:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--output", arguments.output]
    command += ["--images", str(arguments.images), "--measure", loader, place, what]
    if arguments.s3:
        command += ["--s3", arguments.s3]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{loader} {place} {what}:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def measure(
    output: Path, arguments: argparse.Namespace, loader: str, place: str, what: str
) -> float:
    """Samples per second and core, or seconds until the first batch after going on."""
    os.sched_setaffinity(0, range(CORES) if what == "batches" else {0})
    source = str(output) if place == "disk" else str(arguments.s3)
    # Some loaders still write while it is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        take = take_batches if what == "batches" else take_samples
        result = take(loader, source, Path(scratch), arguments.images, what)
        # Workers that lose their parent go on for a while, in the next measurement's time.
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
    print(json.dumps(result), flush=True)
    # Some loaders leave threads or processes that would be waited for.
    os._exit(0)


def take_samples(loader: str, source: str, scratch: Path, images: int, what: str) -> float:
    """Take the samples of an epoch, or those of the first batch after going on."""
    at = int(0.9 * images) // BATCH * BATCH if what == "resume" else 0
    start = READERS[loader](source, scratch, images, at)
    count = BATCH if what == "resume" else images
    use = encoded_size if what == "reading" else decode
    begin = started()
    pixels = 0
    for image, mask, text in itertools.islice(start(), count):
        pixels += use(image, mask) + len(text)
    seconds = time.perf_counter() - begin
    assert pixels, "nothing was read"
    return seconds if what == "resume" else count / seconds


def take_batches(loader: str, source: str, scratch: Path, images: int, what: str) -> float:
    """Take the batches of two epochs, decoded elsewhere."""
    start = BATCHES[loader](source, scratch, images)
    begin = started()
    taken = pixels = 0
    for batch in start():
        taken += len(batch["text"])
        pixels += int(batch["image"][0, 0, 0, 0]) + int(batch["mask"][0, 0, 0]) + 1
        if taken >= 2 * images:
            break
    seconds = time.perf_counter() - begin
    assert pixels, "nothing was read"
    return taken / seconds / CORES


def started() -> float:
    """The time, once what the imports left to Python's garbage collector has been looked through:
    otherwise it is by chance in whose time that is."""
    gc.collect()
    return time.perf_counter()


def decode(image: bytes, mask: bytes) -> int:
    """Decode an image and its mask to arrays, the same work for all loaders."""
    import numpy as np

    from prs_med.data.images import decode_image, decode_mask

    return (
        int(np.asarray(decode_image(image, "image"))[0, 0, 0])
        + int(decode_mask(mask, "mask")[0, 0])
        + 1
    )


def encoded_size(image: bytes, mask: bytes) -> int:
    """Touch an image and its mask without decoding them."""
    return len(image) + len(mask)


# Writing.


def write_all(output: Path, arguments: argparse.Namespace) -> None:
    """Make the images, and each format of them once."""
    from prs_med.data.phantoms import write_phantoms

    done = output / "written.json"
    wanted = {"images": arguments.images, "size": arguments.size}
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != wanted:
        shutil.rmtree(output, ignore_errors=True)
        root = output / "images"
        write_phantoms(root, {"train": arguments.images}, arguments.size, 0, show_progress=True)
        samples = list(sources(root))
        write_parquet(root, output / "parquet")
        write_tar(samples, output / "tar")
        write_mds(samples, output / "mds")
        write_litdata(samples, output / "litdata")
        done.write_text(json.dumps(wanted), encoding="utf-8")
    if arguments.s3:
        for name in ("parquet", "tar", "mds", "litdata"):
            upload(output / name, f"{arguments.s3}/{name}")


def sources(root: Path) -> Iterator[tuple[bytes, bytes, str]]:
    """Image, mask and question of each sample."""
    from prs_med.data.sources import read_annotations

    for record in read_annotations(root, None, "error").records:
        yield record.image_path.read_bytes(), record.mask_path.read_bytes(), record.question


def write_parquet(root: Path, folder: Path) -> None:
    """Ours, which ``datasets`` reads too; as 'launch/data.py build' does by default."""
    from prs_med.data.dataset.build import Layout, build
    from prs_med.data.sources import read_annotations
    from prs_med.data.split import split_records
    from prs_med.storage.location import open_store

    build(
        split_records(read_annotations(root, None, "error").records, 0.0, 0),
        root,
        open_store(str(folder)),
        Layout(row_group_bytes=4 << 20, shard_bytes=128 << 20, shuffle=True, seed=0),
        held_out="",
        skip_bad_rows=False,
        allow_duplicates=False,
        workers=2,
        show_progress=True,
    )


def write_tar(samples: list[tuple[bytes, bytes, str]], folder: Path) -> None:
    """webdataset: 250 samples a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(samples), 250):
        with tarfile.open(folder / f"{first // 250:05d}.tar", "w") as tar:
            for number, sample in enumerate(samples[first : first + 250], first):
                parts = zip(("image.png", "mask.png", "txt"), sample, strict=True)
                for extension, content in parts:
                    data = content.encode() if isinstance(content, str) else content
                    entry = tarfile.TarInfo(f"{number:08d}.{extension}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))


def write_mds(samples: list[tuple[bytes, bytes, str]], folder: Path) -> None:
    """mosaicml-streaming."""
    from streaming import MDSWriter

    columns = {"image": "bytes", "mask": "bytes", "text": "str"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 24) as writer:
        for image, mask, text in samples:
            writer.write({"image": image, "mask": mask, "text": text})


def write_litdata(samples: list[tuple[bytes, bytes, str]], folder: Path) -> None:
    """litdata, its chunk writer alone: ``optimize`` starts processes that need more set-up."""
    from litdata.streaming.cache import Cache

    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(str(folder), chunk_bytes=1 << 24)
    for number, (image, mask, text) in enumerate(samples):
        cache[number] = {"image": image, "mask": mask, "text": text}
    cache.done()
    cache.merge()


def upload(folder: Path, uri: str) -> None:
    """Put a folder on S3, readable for all."""
    import boto3

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.upload_file(str(path), bucket, key, ExtraArgs={"ACL": "public-read"})


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

if __name__ == "__main__":
    main()
