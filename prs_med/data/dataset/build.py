"""Build a dataset: from annotation files, images and masks to shards and ``dataset.json``.

A build that was interrupted goes on where it was: a shard is finished when its report lies beside
it, and its name contains a fingerprint of what it is made of: the rows, and the content of their
files. Shards of earlier builds that were not finished go before ``dataset.json`` is written, the
reports afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from prs_med.data import stored_split
from prs_med.data.contents import content_digests
from prs_med.data.dataset import index
from prs_med.data.dataset.index import DatasetIndex, OpenedIndex, Split, read_index
from prs_med.data.dataset.shard_writer import ShardReport, SourceImage, write_shard
from prs_med.data.order import permutation
from prs_med.data.records import DataError, Record
from prs_med.data.split import Splits
from prs_med.data.stored_split import StoredSplit
from prs_med.storage.store import StorageError, Store

REPORTS = "_build"
_SHARD = re.compile(r"data/(train|val|test)-\d{5,}-[0-9a-f]{12}\.parquet")
_REPORT = re.compile(rf"{REPORTS}/(train|val|test)-\d{{5,}}-[0-9a-f]{{12}}\.parquet\.json")


@dataclass(frozen=True)
class Layout:
    """How large the pieces of a dataset are."""

    row_group_bytes: int
    """A row group ends with the image that brings it to this size; it is what one read fetches."""
    shard_bytes: int
    """A shard ends with the row group that brings it to this size."""
    shuffle: bool
    """Put the images of the training split in an order drawn by the seed."""
    seed: int


@dataclass(frozen=True)
class Built:
    """What a build did."""

    index: DatasetIndex
    written: int
    """Shards that this call wrote; the others were there already."""
    bad_rows: list[str]
    removed: int = 0
    """Shards of earlier builds that were not finished."""
    left: list[str] = field(default_factory=list)
    """What could not be cleaned up, and why."""


@dataclass(frozen=True)
class _Plan:
    """A shard to be: its name, and the images of each of its row groups."""

    name: str
    split: str
    row_groups: list[list[SourceImage]]

    @property
    def images(self) -> int:
        return sum(len(group) for group in self.row_groups)


def build(
    splits: Splits,
    data_root: Path,
    store: Store,
    layout: Layout,
    *,
    held_out: str,
    skip_bad_rows: bool,
    allow_duplicates: bool,
    workers: int,
    show_progress: bool,
) -> Built:
    """Write the shards that are not there yet, and then ``dataset.json``.

    Args:
        splits: the rows of each split.
        data_root: folder that the paths of images are stored relative to.
        store: where the dataset goes.
        layout: sizes and order.
        held_out: how images were held out, for the record; empty if all were labelled.
        skip_bad_rows: leave out rows that cannot be used rather than stop at the first.
        allow_duplicates: list images and masks that are in several splits rather than stop.
        workers: threads that read and decode.
        show_progress: draw a bar.

    Raises:
        DataError: a row cannot be used, splits share images or masks, or the store holds another
            dataset, or Parquet files that no build made.
        StorageError: the store cannot be written.
    """
    _refuse_foreign(store)
    records = [*splits.train, *splits.val, *splits.test]
    rows = {path: r.row_id for r in records for path in (r.image_path, r.mask_path)}
    digests = content_digests(rows, workers, show_progress)
    plans = [
        plan
        for name in ("train", "val", "test")
        for plan in _plans(name, getattr(splits, name), data_root.resolve(), layout, digests)
    ]
    built_from = _sha256([plan.name for plan in plans])
    there = _existing(store, built_from)
    if there is not None:
        removed, left = _remove_orphans(store, there.index)
        left += _clear(store)  # The build may have been killed just before it did.
        return Built(there.index, written=0, bad_rows=[], removed=removed, left=left)
    reports = _write_shards(plans, store, skip_bad_rows, workers, show_progress)
    by_name = {name: report for name, report, _ in reports}
    bad_rows = [row for report in by_name.values() for row in report.bad_rows]
    duplicates = _shared_contents((plan.split, by_name[plan.name]) for plan in plans)
    if duplicates and not allow_duplicates:
        shown = "; ".join(duplicates[:3]) + ("; ..." if len(duplicates) > 3 else "")
        raise DataError(
            f"{len(duplicates)} images or masks are in several splits: {shown}. Correct the "
            "splits, or build again with --allow_duplicates: what is written is kept"
        )
    split = StoredSplit.of(splits, digests).dumps()
    result = DatasetIndex(
        splits=_splits(plans, by_name),
        built_from=built_from,
        held_out=held_out,
        duplicates=duplicates,
        shared_groups=splits.shared_groups_text,
        split_sha256=hashlib.sha256(split).hexdigest(),
    )
    if not result.splits:
        raise DataError(f"no usable row, the first of {len(bad_rows)} bad ones: {bad_rows[0]}")
    if store.size(index.NAME) is not None:
        _remove_orphans(store, read_index(store).index)
        raise DataError(f"{store.uri}: another build has written dataset.json there meanwhile")
    removed, left = _remove_orphans(store, result)
    store.write(stored_split.NAME, split)
    store.write(index.NAME, result.dumps().encode())
    left += _clear(store)
    return Built(result, sum(new for _, _, new in reports), bad_rows, removed, left)


def _clear(store: Store) -> list[str]:
    """Remove what builds leave beside a dataset; what of it could not be removed, and why."""
    try:
        for name in store.names(f"{REPORTS}/"):
            if _REPORT.fullmatch(name):
                store.delete(name)
        for folder in ("data", REPORTS, ""):
            store.sweep(folder)
    except StorageError as error:
        return [f"reports and unfinished files: {error}"]
    return []


def _refuse_foreign(store: Store) -> None:
    for name in store.names():
        if name.endswith(".parquet") and not _SHARD.fullmatch(name):
            raise DataError(
                f"{store.where(name)}: no build made this file, and load_dataset would read it as "
                "part of the dataset; give another --output"
            )


def _remove_orphans(store: Store, built: DatasetIndex) -> tuple[int, list[str]]:
    """Remove shards that are not part of the dataset, as builds of other rows leave them: whoever
    reads all Parquet files of the folder would read them, too. How many went, and what could not
    be removed."""
    left_over = [name for name in index.orphans(store, built) if _SHARD.fullmatch(name)]
    for number, name in enumerate(left_over):
        try:
            store.delete(name)
        except StorageError as error:
            count = len(left_over) - number
            return number, [f"{count} shards of earlier builds, which load_dataset reads: {error}"]
    return len(left_over), []


def _existing(store: Store, built_from: str) -> OpenedIndex | None:
    """The finished dataset in the store, if it is the one to be built."""
    if store.size(index.NAME) is None:
        return None
    there = read_index(store)
    if there.index.built_from != built_from:
        raise DataError(
            f"{store.uri} holds a dataset that was built from other files or with other settings: "
            "give another --output"
        )
    return there


def _plans(
    name: str, records: Sequence[Record], root: Path, layout: Layout, digests: dict[Path, str]
) -> Iterator[_Plan]:
    """Divide the images of a split into shards, and those into row groups, by their sizes."""
    images = _source_images(records, root)
    if layout.shuffle and name == "train":
        images = [images[number] for number in permutation(len(images), layout.seed, 0)]
    groups: list[list[SourceImage]] = [[]]
    shard_bytes = group_bytes = 0
    number = 0
    for image in images:
        groups[-1].append(image)
        group_bytes += image.nbytes
        if group_bytes < layout.row_group_bytes:
            continue
        shard_bytes += group_bytes
        group_bytes = 0
        if shard_bytes >= layout.shard_bytes:
            yield _plan(name, number, groups, digests)
            groups, shard_bytes, number = [], 0, number + 1
        groups.append([])
    if not groups[-1]:
        groups.pop()
    if groups:
        yield _plan(name, number, groups, digests)


def _plan(
    split: str, number: int, groups: list[list[SourceImage]], digests: dict[Path, str]
) -> _Plan:
    fingerprint = _sha256([[_identity(image, digests) for image in group] for group in groups])
    # load_dataset takes the split from the start of the name.
    return _Plan(f"data/{split}-{number:05d}-{fingerprint[:12]}.parquet", split, groups)


def _identity(image: SourceImage, digests: dict[Path, str]) -> list[object]:
    """All that an image's row is made of; files by their content, since copies of other folders may
    have the same sizes and times."""
    rows = [
        [r.row_id, r.mask_path.name, digests[r.mask_path], r.question, r.answer, r.position]
        + ([r.mask_class.value, sorted(r.mask_class.known)] if r.mask_class else [])
        for r in image.records
    ]
    first = image.records[0]
    return [
        image.path, digests[first.image_path], first.modality, first.task, first.group, rows
    ]  # fmt: skip


def _source_images(records: Sequence[Record], root: Path) -> list[SourceImage]:
    """The images that the records ask about, in the order in which they first occur."""
    grouped: dict[tuple[Path, str | None, str], list[Record]] = {}
    for record in records:
        key = (record.image_path, record.modality, record.task)
        grouped.setdefault(key, []).append(record)
    images = []
    for (path, *_), rows in grouped.items():
        sizes = [file.stat().st_size for file in (path, *(row.mask_path for row in rows))]
        name = path.resolve().relative_to(root).as_posix()
        images.append(SourceImage(name, tuple(rows), sum(sizes)))
    return images


def _write_shards(
    plans: Sequence[_Plan], store: Store, skip_bad_rows: bool, workers: int, show_progress: bool
) -> list[tuple[str, ShardReport, bool]]:
    """Each shard's report, and whether it was written now; one is stored while the next is made."""
    results: list[tuple[str, ShardReport, bool]] = []
    storing: Future[None] | None = None
    with (
        tempfile.TemporaryDirectory(prefix="prs-med-build-") as folder,
        ThreadPoolExecutor(max(1, workers)) as pool,
        ThreadPoolExecutor(1) as uploader,
        tqdm(
            total=sum(plan.images for plan in plans),
            desc="building",
            unit="image",
            disable=not show_progress,
        ) as bar,
    ):
        for number, plan in enumerate(plans):
            report = _finished(store, plan)
            if report is not None:
                bar.update(plan.images)
                results.append((plan.name, report, False))
                continue
            # Two names in turn: the one before may still be on its way to the store.
            path = Path(folder) / f"{number % 2}.parquet"
            report = write_shard(
                path,
                plan.name,
                plan.row_groups,
                skip_bad_rows=skip_bad_rows,
                pool=pool,
                done=bar.update,
            )
            if storing:
                storing.result()
            storing = uploader.submit(_store_shard, store, plan.name, path, report)
            results.append((plan.name, report, True))
        if storing:
            storing.result()
    return results


def _store_shard(store: Store, name: str, path: Path, report: ShardReport) -> None:
    """Put a shard into the store, read it back, and then put its report there."""
    if report.shard:
        store.write_file(name, path)
        if hashlib.sha256(store.read(name)).hexdigest() != report.shard.sha256:
            raise StorageError(f"{store.where(name)}: reads back otherwise than it was written")
    store.write(_report_name(name), json.dumps(report.dumps()).encode())


def _finished(store: Store, plan: _Plan) -> ShardReport | None:
    """The report of a shard that an earlier call finished."""
    name = _report_name(plan.name)
    if store.size(name) is None:
        return None
    try:
        report = ShardReport.parse(json.loads(store.read(name)))
    except (ValueError, KeyError, TypeError):
        return None
    complete = report.shard is None or store.size(plan.name) == report.shard.size
    return report if complete else None


def _report_name(shard: str) -> str:
    return f"{REPORTS}/{Path(shard).name}.json"


def _splits(plans: Sequence[_Plan], reports: dict[str, ShardReport]) -> dict[str, Split]:
    found: dict[str, Split] = {}
    for split in dict.fromkeys(plan.split for plan in plans):
        of_split = [reports[plan.name] for plan in plans if plan.split == split]
        shards = [report.shard for report in of_split if report.shard]
        if shards:
            found[split] = Split(
                shards=shards,
                modalities=sorted({m for report in of_split for m in report.modalities}),
                longest_text=max(report.longest_text for report in of_split),
            )
    return found


def _shared_contents(reports: Iterable[tuple[str, ShardReport]]) -> list[str]:
    """One message for each image or mask whose bytes are in more than one split."""
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for split, report in reports:
        for kind, digest, row_id in report.contents:
            seen.setdefault((kind, digest), {}).setdefault(split, row_id)
    return [
        f"one {kind} is in " + " and in ".join(f"{s} ({row_id})" for s, row_id in places.items())
        for (kind, _), places in seen.items()
        if len(places) > 1
    ]


def _sha256(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
