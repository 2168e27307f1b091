"""The same images and masks in each loader's own format, on disk and on S3; for loader.py."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path


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
