"""Check a dataset: every byte, image, mask, zone and answer of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from prs_med.data.answer_position import ENGLISH, parse_position
from prs_med.data.augment import words_can_be_flipped
from prs_med.data.dataset.checksums import matches
from prs_med.data.dataset.index import DatasetIndex, Shard, orphans, read_index
from prs_med.data.dataset.places import Place, RowGroupPlaces
from prs_med.data.dataset.row_groups import RowGroup, decoded_row_group
from prs_med.data.dataset.shard_footer import parse_footer
from prs_med.data.dataset.stored import StoredImage
from prs_med.data.images import decode_image, decode_mask
from prs_med.data.language import is_in_other_language
from prs_med.data.position import Position, position_of
from prs_med.data.position_words import PositionWords
from prs_med.data.records import DataError
from prs_med.data.stored_split import read_split
from prs_med.storage.store import StorageAwayError, StorageError, Store

_SHOWN = 5

ERRORS = {
    "shard": "shards are missing or damaged",
    "orphan": "Parquet files are not in dataset.json, and load_dataset reads them all the same",
    "split": "split.json is missing or damaged",
    "image": "images cannot be decoded",
    "mask": "masks cannot be decoded",
    "size": "images differ in size from a mask, or from the size stored",
    "zone": "stored zones are not those of their masks",
    "answer zone": "answers name another zone than their masks have",
    "answer nearness": "answers contradict their masks about nearness to the centre",
    "duplicate": "images or masks are in several splits",
}
NOTES = {
    "empty mask": "masks are empty",
    "answer unclear": "answers are unclear: they name no zone, several, or are not understood",
    "other language": "answers are in another language (n/a; --position_words gives its words)",
    "not flipped": "questions have words that --augment_flip does not know: their images are never "
    "flipped",
    "unlisted": "folders cannot be listed, so that files beside the dataset were not seen",
}


@dataclass(frozen=True)
class Finding:
    """Something that was found."""

    kind: str
    """A key of :data:`ERRORS` or :data:`NOTES`."""
    split: str
    row_id: str
    """Row that the question was built from; empty for a file."""
    where: str
    """Shard, row group and row."""
    message: str


@dataclass(frozen=True)
class Findings:
    """What a check found."""

    images: int
    """How many could be looked at."""
    questions: int
    found: list[Finding]

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.kind in ERRORS for finding in self.found)

    def table(self) -> str:
        """Counts of all kinds of findings, with the first rows of each."""
        lines = [f"{self.images} images and {self.questions} questions checked"]
        for kind, text in {**ERRORS, **NOTES}.items():
            found = [finding for finding in self.found if finding.kind == kind]
            if kind in ERRORS or found:
                lines.append(f"{len(found):>8} {text}")
            for finding in found[:_SHOWN] if kind in ERRORS else ():
                lines.append(f"         {finding.row_id or finding.where}: {finding.message}")
            if kind in ERRORS and len(found) > _SHOWN:
                lines.append(f"         and {len(found) - _SHOWN} more")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write all findings, one JSON object a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(json.dumps(asdict(finding)) + "\n" for finding in self.found),
            encoding="utf-8",
        )


@dataclass(frozen=True)
class _Looked:
    """What was seen of one image."""

    found: list[Finding]
    contents: list[tuple[str, str, str]]
    """Kind, SHA-256 and row of the image and of each mask that is not empty."""


def check(
    store: Store,
    workers: int,
    show_progress: bool,
    tables: Sequence[PositionWords] = ENGLISH,
) -> Findings:
    """Read and check everything; what is found is listed, not raised. ``tables`` are the languages
    in which answers are read.

    Raises:
        DataError: there is no dataset, or its ``dataset.json`` cannot be read.
    """
    index = read_index(store).index
    found = [*_split_file(store, index), *_beside(store, index)]
    images = questions = 0
    places: dict[tuple[str, str], dict[str, str]] = {}
    total = sum(split.rows for split in index.splits.values())
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, desc="checking", unit="image", disable=not show_progress) as bar,
    ):
        for split, shards in ((name, split.shards) for name, split in index.splits.items()):
            for shard in shards:
                for group, sizes in _row_groups(store, split, shard, found):
                    stored = [group.image(row) for row in range(group.rows)]
                    looks = pool.map(partial(_look, split, tables), stored, sizes)
                    for image, looked in zip(stored, looks, strict=True):
                        found += looked.found
                        images += 1
                        questions += len(image.targets)
                        for kind, digest, row_id in looked.contents:
                            places.setdefault((kind, digest), {}).setdefault(split, row_id)
                    bar.update(group.rows)
    found += _duplicates(places)
    return Findings(images, questions, found)


def _split_file(store: Store, index: DatasetIndex) -> list[Finding]:
    try:
        read_split(store, index.split_sha256)
    except StorageAwayError:
        raise
    except (DataError, StorageError) as error:
        return [Finding("split", "", "", store.where("split.json"), str(error))]
    return []


def _beside(store: Store, index: DatasetIndex) -> list[Finding]:
    """Files that are there but not part of the dataset."""
    try:
        names = orphans(store, index)
    except StorageAwayError:
        raise
    except StorageError as error:
        # A bucket may let everyone read and nobody list.
        return [Finding("unlisted", "", "", store.uri, str(error))]
    return [
        Finding("orphan", "", "", store.where(name), "remove it, or run the same build again")
        for name in names
    ]


def _row_groups(
    store: Store, split: str, shard: Shard, found: list[Finding]
) -> Iterator[tuple[RowGroup, list[tuple[int, int]]]]:
    """The row groups of a shard that can be read, with the stored (width, height) of their images;
    about the others there is a finding."""
    where = store.where(shard.name)

    def note(place: str, message: str) -> None:
        found.append(Finding("shard", split, "", place, message))

    try:
        data = store.read(shard.name)
    except StorageAwayError:
        raise  # It says nothing about the shard.
    except StorageError as error:
        note(where, str(error))
        return
    if len(data) != shard.size:
        note(where, f"has {len(data)} bytes, but dataset.json says {shard.size}")
        return
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        note(where, "the checksum of the file is wrong")
    try:
        footer = parse_footer(data[shard.footer.offset :], shard, f"{where} footer")
    except DataError as error:
        note(where, str(error))
        return
    groups = shard.row_groups
    for number in range(len(groups)):
        start, length = groups.offsets[number], groups.lengths[number]
        part = data[start : start + length]
        place = f"{where} row group {number}"
        if not matches(part, groups.checksums[number]):
            note(place, "the checksum of the row group is wrong")
            continue
        try:
            group = decoded_row_group(part, start, number, footer, place)
            sizes = footer.columns(part, start, number, ["width", "height"], place)
        except DataError as error:
            note(place, str(error))
            continue
        if (group.rows, group.targets) != (groups.rows[number], groups.targets[number]):
            note(place, f"has {group.rows} rows and {group.targets} targets, not as described")
        places = footer.places(number)
        if places and not _fit(places, part, start, group):
            note(place, "the places of images and masks in the footer are wrong")
        yield group, [(row["width"], row["height"]) for row in sizes.to_pylist()]


def _fit(places: RowGroupPlaces, data: bytes, start: int, group: RowGroup) -> bool:
    """Whether what training reads at these places is what readers of Parquet find."""
    images = [group.image(row) for row in range(group.rows)]
    values = [image.image for image in images]
    values += [target.mask for image in images for target in image.targets]
    at = [*places.images, *places.masks]

    def held(place: Place) -> bytes:
        return data[place.start - start : place.end - start]

    return all(place.holds(held(place)) for place in (places.rest, *at)) and (
        [held(place) for place in at] == values
    )


def _look(
    split: str, tables: Sequence[PositionWords], stored: StoredImage, size: tuple[int, int]
) -> _Looked:
    """Decode an image and its masks, and compare what is said of them. ``size`` is the stored
    (width, height)."""
    found: list[Finding] = []
    contents: list[tuple[str, str, str]] = []

    def note(kind: str, row_id: str, message: str) -> None:
        found.append(Finding(kind, split, row_id, stored.where, message))

    first = stored.targets[0].row_id
    contents.append(("image", _digest(stored.image), first))
    try:
        actual = decode_image(stored.image, "the image").size
        if actual != size:
            note("size", first, f"the image is {actual}, but stored as {size} (width, height)")
    except DataError as error:
        actual = size
        note("image", first, str(error))
    for target in stored.targets:
        try:
            mask = decode_mask(target.mask, "the mask")
        except DataError as error:
            note("mask", target.row_id, str(error))
            continue
        if mask.shape[::-1] != actual:
            note("size", target.row_id, f"the mask is {mask.shape[::-1]}, the image {actual}")
        position = position_of(mask) if mask.any() else None
        if position is None:
            note("empty mask", target.row_id, "the mask is empty")
        else:
            contents.append(("mask", _digest(target.mask), target.row_id))
        stored_position = (target.zone, target.near_center)
        if stored_position != ((position.zone, position.near_center) if position else (None, None)):
            note("zone", target.row_id, f"stored {stored_position}, the mask has {position}")
        if position:
            _compare_answer(target.answer, position, target.row_id, tables, note)
        if not words_can_be_flipped(target.question, target.answer):
            note("not flipped", target.row_id, f"{target.question!r}, {target.answer!r}")
    return _Looked(found, contents)


def _compare_answer(
    answer: str,
    position: Position,
    row_id: str,
    tables: Sequence[PositionWords],
    note: Callable[[str, str, str], None],
) -> None:
    """Note where an answer says something else than its mask."""
    said = parse_position(answer, tables)
    if is_in_other_language(answer, tables):
        note("other language", row_id, answer)
    elif said.zone is None:
        note("answer unclear", row_id, answer)
    elif said.zone != position.zone:
        note("answer zone", row_id, f"the mask is {position.zone}: {answer!r}")
    elif said.near_center not in (None, position.near_center):
        near = "near" if position.near_center else "away from"
        note("answer nearness", row_id, f"the mask is {near} the centre: {answer!r}")


def _duplicates(places: dict[tuple[str, str], dict[str, str]]) -> Sequence[Finding]:
    return [
        Finding("duplicate", "", next(iter(rows.values())), "", f"the {kind} is also in " + others)
        for (kind, _), rows in places.items()
        if len(rows) > 1
        and (others := ", ".join(f"{split} ({row})" for split, row in list(rows.items())[1:]))
    ]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
