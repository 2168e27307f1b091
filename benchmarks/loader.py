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
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loader_formats import write_all
from benchmarks.loader_readers import BATCH, BATCHES, CORES, READERS

LOADERS = tuple(READERS)
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
    for name, allowed in (("loaders", LOADERS), ("only", MEASUREMENTS)):
        unknown = set(getattr(arguments, name).split(",")) - set(allowed)
        if unknown:
            parser.error(f"--{name} {','.join(sorted(unknown))}: choose from {','.join(allowed)}")
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
        for place, what in itertools.product(places, MEASUREMENTS)
        if what in only and (place, what) != ("s3", "batches")
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
    from tests.services.s3.ceph import CephGateway

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


if __name__ == "__main__":
    main()
