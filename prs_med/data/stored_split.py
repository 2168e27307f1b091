"""``split.json``: which images a training or a dataset has in which split, to be read back later.

::

    {"format": 1, "how": "no row is labelled val: ...", "held_out": ["val"],
     "images": {"train": ["0f3a...", ...], "val": [...], "test": [...]},
     "groups": {"train": ["91bc...", ...], "val": [...], "test": [...]}}

An image is 16 or 32 hexadecimal digits: the first 16 of the SHA-256 of ``image``, a line end and
its path below the data root (links followed, forward slashes, NFC, UTF-8), then the first 16 of the
XXH3 (128 bits) of its file, unless the training did not look into files (``--verify_files false``).
A patient or study is the first 16 of the SHA-256 of ``group``, a line end and the name as
:func:`prs_med.data.groups.same_name` has it. So the file names nobody. It is no secret either:
whoever can guess a name can find it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prs_med.data.columns import SPLITS
from prs_med.data.contents import content_digest
from prs_med.data.records import DataError, Record
from prs_med.data.split import Splits, image_names, label_of
from prs_med.storage.store import Store

NAME = "split.json"
FORMAT = 1
_DIGITS = 16


@dataclass(frozen=True)
class ReadBack:
    """The rows of a split as it was stored."""

    records: list[Record]
    """In the order they were read."""
    notes: list[str]
    """What of the data is not as it was then, or what else a reader of scores should know."""


@dataclass(frozen=True)
class StoredSplit:
    """What such a file says."""

    images: dict[str, str]
    """The split of each image, by the digest of its path."""
    contents: dict[str, str]
    """The digest of each image's file, by that of its path, where it is known."""
    groups: dict[str, frozenset[str]]
    """The digests of the patients and studies of each split."""
    held_out: frozenset[str]
    """The splits that were held out of rows labelled for training, or not at all."""
    how: str
    """How; see :attr:`prs_med.data.split.Splits.how`."""

    @staticmethod
    def of(splits: Splits, contents: Mapping[Path, str]) -> StoredSplit:
        """The division that was made of the records of one data root.

        Args:
            contents: digests of the images' files (:func:`prs_med.data.contents.content_digest`).
        """
        images: dict[str, str] = {}
        files: dict[str, str] = {}
        groups: dict[str, frozenset[str]] = {}
        for split in SPLITS:
            records: list[Record] = getattr(splits, split)
            for path, name in image_names(records).items():
                digest = _digest("image", name)
                images[digest] = split
                if path in contents:
                    files[digest] = contents[path][:_DIGITS]
            groups[split] = frozenset(_digest("group", r.group) for r in records if r.group)
        made = {"val": splits.held_out, "test": splits.test_held_out}
        held_out = frozenset(name for name, was in made.items() if was)
        return StoredSplit(images, files, groups, held_out, splits.how)

    def dumps(self) -> bytes:
        """The content of the file."""
        images: dict[str, list[str]] = {name: [] for name in SPLITS}
        for digest, name in sorted(self.images.items()):
            images[name].append(digest + self.contents.get(digest, ""))
        content = {
            "format": FORMAT,
            "how": self.how,
            "held_out": sorted(self.held_out),
            "images": images,
            "groups": {name: sorted(self.groups[name]) for name in SPLITS},
        }
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"

    @staticmethod
    def parse(content: bytes, where: str) -> StoredSplit:
        """What the content of a file says.

        Raises:
            DataError: it is none, or of another format; the message starts with ``where``.
        """
        try:
            loaded = json.loads(content)
            if loaded["format"] != FORMAT:
                raise DataError(
                    f"{where}: format {loaded['format']!r}; this version reads {FORMAT}"
                )
            listed = [(str(d), name) for name in SPLITS for d in loaded["images"][name]]
            return StoredSplit(
                {digests[:_DIGITS]: name for digests, name in listed},
                {d[:_DIGITS]: d[_DIGITS:] for d, _ in listed if d[_DIGITS:]},
                {name: frozenset(map(str, loaded["groups"][name])) for name in SPLITS},
                frozenset(map(str, loaded["held_out"])),
                str(loaded["how"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: not a description of splits ({error!r})") from None

    def split_of(self, image: str) -> str | None:
        """The split of an image by its name (:func:`prs_med.data.split.image_name`); None if none
        of the name was there."""
        return self.images.get(_digest("image", image))

    def read_back(
        self, records: Sequence[Record], split: str, bad_images: Iterable[str] = ()
    ) -> ReadBack:
        """The rows whose images were in a split.

        An image is known again by its path and its content, or by its content under another path,
        or by its path if it alone has changed: where no image has the content that it had, the data
        are others, and paths tell nothing. Images that were not there belong to the split that they
        are labelled with. If images were held out, then those of them that could have been belong
        to none.

        Args:
            records: all usable rows of the data.
            split: ``train``, ``val`` or ``test``.
            bad_images: names of the images of bad rows, which are there, too.

        Raises:
            DataError: images that were there have another label now, or of those that were held
                out none is left.
        """
        undecided = {"train", *self.held_out} if self.held_out else set()
        known, changed = self._known(records, split, undecided)
        self._refuse_other_labels(records, known)
        chosen, new, left_out = [], set(), set()
        for record in records:
            was, label = known[record.image_path], label_of(record)
            if was is None and label == "train" and split in undecided:
                left_out.add(record.image_path)
            elif (was or label) == split:
                chosen.append(record)
                if was is None:
                    new.add(record.image_path)
        of_split = sum(name == split for name in self.images.values())
        found = len({record.image_path for record in chosen} - new)
        found += sum(self.split_of(image) == split for image in set(bad_images))
        if split in self.held_out and not (found or new):
            raise DataError(
                f"--split {split}: none of the {of_split} images that training held out is in the "
                "data; give --data_root and --ann_paths of the training"
            )
        notes = []
        if found and found < of_split:
            notes.append(
                f"--split {split}: {of_split - found} of the {of_split} images of the training's "
                "split not in the data"
            )
        if changed:
            notes.append(
                f"--split {split}: {_images(changed)} with another content than in training, taken "
                "by path"
            )
        if new and of_split:
            notes.append(
                f"--split {split}: {_images(len(new))} not there in training, labelled {split}"
            )
        if left_out:
            notes.append(
                f"--split {split}: {_images(len(left_out))} left out: not there, or bad rows, when "
                "training held out images, and so of no split"
            )
        notes += self._known_groups(chosen, split)
        return ReadBack(chosen, notes)

    def seen_of(self, other: StoredSplit) -> list[str]:
        """A sentence for each split that another training holds out and this one trained on."""
        seen = {name: self._trained_on(other, name) for name in ("val", "test")}
        return [
            f"{_images(count)} of split {name} here were training images there, so scores on them "
            "are too good"
            for name, count in seen.items()
            if count
        ]

    def refuse_trained(self, other: StoredSplit, split: str, where: str) -> None:
        """Refuse a split of a dataset that holds images which were trained on.

        Args:
            other: what the dataset has in which split.
            split: the split to be asked about; that of training may be asked about.
            where: the dataset, for the message.

        Raises:
            DataError: with their number.
        """
        trained = 0 if split == "train" else self._trained_on(other, split)
        if trained:
            asked = sum(name == split for name in other.images.values())
            raise DataError(
                f"--split {split}: {trained} of the {asked} images in {where} were training "
                "images of this checkpoint; evaluate it on the data that it was trained with"
            )

    def _trained_on(self, other: StoredSplit, split: str) -> int:
        """How many images of a split of other data were training images here."""
        return sum(
            self._split_of(digest, other.contents.get(digest)) == "train"
            for digest, name in other.images.items()
            if name == split
        )

    @cached_property
    def _by_content(self) -> dict[str, str]:
        """The split of each file; that of training for one that is in several."""
        return {
            content: split
            for split in reversed(SPLITS)
            for digest, content in self.contents.items()
            if self.images[digest] == split
        }

    def _split_of(self, digest: str, content: str | None) -> str | None:
        """The split of an image with this digest of its path, and this content if it is known."""
        then = self.contents.get(digest)
        if content is None or then is None:
            return self.images.get(digest) or self._by_content.get(content or "")
        return self.images[digest] if then == content else self._by_content.get(content)

    def _known(
        self, records: Sequence[Record], split: str, undecided: set[str]
    ) -> tuple[dict[Path, str | None], int]:
        """The split in which each image was, None for one that was not there; and how many are
        known by their paths although their content has changed.

        Only files that matter are read: those that could be in the split, and those whose label
        contradicts what was.
        """
        labels = {record.image_path: label_of(record) for record in records}
        found: dict[Path, str | None] = {}
        changed: list[tuple[Path, str]] = []
        same = False
        unread: list[tuple[Path, str]] = []
        for path, name in image_names(records).items():
            digest = _digest("image", name)
            was = self.images.get(digest)
            if was is None:
                look = split in (labels[path], *undecided)
            else:
                look = was == split or labels[path] != self._label(was)
            content = _content(path) if look and self.contents else None
            found[path] = self._split_of(digest, content)
            then = self.contents.get(digest)
            if then is not None:
                same = same or then == content
                if content is None:
                    unread.append((path, then))
                elif found[path] is None:
                    changed.append((path, digest))
        if changed and (same or any(_content(path) == then for path, then in unread)):
            found |= {path: self.images[digest] for path, digest in changed}
            return found, len(changed)
        return found, 0

    def _label(self, split: str) -> str:
        """What the rows of a split are labelled, if at all."""
        return "train" if split in self.held_out else split

    def _refuse_other_labels(
        self, records: Sequence[Record], known: Mapping[Path, str | None]
    ) -> None:
        other = [
            (record, was)
            for record in records
            if (was := known[record.image_path]) and label_of(record) != self._label(was)
        ]
        if other:
            (first, was), images = other[0], len({record.image_path for record, _ in other})
            raise DataError(
                f"{first.row_id}: is labelled {label_of(first)}, but its image was in split "
                f"{was!r} when this checkpoint was trained ({_images(images)} labelled otherwise "
                "than then); label rows as they were"
            )

    def _known_groups(self, chosen: Iterable[Record], split: str) -> list[str]:
        """A note if patients of these rows are in other splits of the training, too."""
        groups = {_digest("group", record.group) for record in chosen if record.group}
        known = {name: groups & self.groups[name] for name in SPLITS if name != split}
        number = len(set().union(*known.values()))
        if not number:
            return []
        each = ", ".join(f"{name}: {len(there)}" for name, there in known.items() if there)
        return [
            f"--split {split}: {number} of {len(groups)} patients or studies are by their names in "
            f"other splits of the training, too ({each})"
        ]


def read_split(store: Store, sha256: str) -> bytes | None:
    """The content of a dataset's ``split.json``; None in datasets of earlier versions.

    Args:
        sha256: its SHA-256 as ``dataset.json`` has it; empty if the dataset has none.

    Raises:
        DataError: it is another file.
        StorageError: it cannot be read.
    """
    if not sha256:
        return None
    content = store.read(NAME)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{store.where(NAME)}: is not the file that dataset.json was written with")
    return content


def _digest(kind: str, name: str) -> str:
    named = f"{kind}\n{name}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(named).hexdigest()[:_DIGITS]


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _content(path: Path) -> str | None:
    """The digest of a file; None if it cannot be read, which shows when it is decoded."""
    try:
        return content_digest(path)[:_DIGITS]
    except OSError:
        return None
