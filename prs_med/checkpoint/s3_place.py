"""Checkpoints on S3: files lie under the SHA-256 of their content, and the manifest is put last.

::

    manifests/step-00000120-01.json
    files/<sha256>
    reports/step-00000140-01/00000.json

Of many objects, as a checkpoint of many processes has them, several are asked for at a time.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from prs_med.checkpoint.directory_place import newest_change
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, StoredFile, parse_manifest
from prs_med.storage.s3 import CONNECTIONS, S3Store
from prs_med.storage.store import StorageError, Store

_DRAFT = ".draft-"
_MANIFESTS = "manifests/"
_FILES = "files/"
_REPORTS = "reports/"
_OURS = re.compile(
    rf"({_FILES}[0-9a-f]{{64}}(?P<upload>\.upload)?|{_REPORTS}step-\d+-\d+/\d{{5,}}\.json)"
)
"""What may be swept: nothing but what this module has put there by name."""

_logger = logging.getLogger("prs_med.checkpoint")
T = TypeVar("T")
R = TypeVar("R")


class S3Place:
    """See :class:`prs_med.checkpoint.place.Place`; files pass through ``staging``, local."""

    def __init__(self, store: S3Store, staging: Path) -> None:
        self._s3 = store
        self.store: Store = store
        self._staging = staging
        self.writer = uuid4().hex
        """What no other process that may use the same ``staging`` is called, such as run, attempt
        and rank; process ids are alike in containers."""

    def where(self, name: CheckpointName) -> str:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.where(f"{_MANIFESTS}{name}.json")

    def checkpoints(self) -> list[CheckpointName]:
        """See :class:`prs_med.checkpoint.place.Place`."""
        keys = self.store.names(_MANIFESTS)
        names = [key.removeprefix(_MANIFESTS).removesuffix(".json") for key in keys]
        return sorted(name for text in names if (name := CheckpointName.parse(text)))

    def manifest(self, name: CheckpointName) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.read(f"{_MANIFESTS}{name}.json")

    def read(self, name: CheckpointName, file: StoredFile, offset: int, length: int) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.read(_key(file), offset, length)

    def size(self, name: CheckpointName, file: StoredFile) -> int | None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.size(_key(file))

    def begin(self, name: CheckpointName) -> Path:
        """See :class:`prs_med.checkpoint.place.Place`."""
        draft = self._draft(name)
        draft.mkdir(parents=True, exist_ok=True)
        return draft

    def publish(self, name: CheckpointName, file: StoredFile) -> None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        path = self.begin(name) / file.name
        self.store.write_file(_key(file), path)
        path.unlink()

    def report(self, name: CheckpointName, rank: int, text: bytes) -> None:
        """See :class:`prs_med.checkpoint.place.Place`; with it, this process's part has ended."""
        self._clear_staging(name)
        self.store.write(f"{_REPORTS}{name}/{rank:05d}.json", text)

    def reports(self, name: CheckpointName, known: Collection[int] = ()) -> dict[int, bytes]:
        """See :class:`prs_med.checkpoint.place.Place`."""
        keys = {_rank(key): key for key in self.store.names(f"{_REPORTS}{name}/")}
        wanted = {rank: key for rank, key in keys.items() if rank not in known}
        return dict(zip(wanted, _at_once(self.store.read, wanted.values()), strict=True))

    def commit(self, name: CheckpointName, manifest: bytes) -> bool:
        """See :class:`prs_med.checkpoint.place.Place`: one conditional PUT."""
        # While these files were uploaded, those of an older checkpoint were perhaps removed; what
        # both had in common must still be there.
        present = set(self.store.names(_FILES))
        for file in parse_manifest(manifest, self.where(name)).all_files:
            if _key(file) not in present:
                raise StorageError(f"{self.store.where(_key(file))}: {file.name} has vanished")
        won = self.store.create(f"{_MANIFESTS}{name}.json", manifest)
        self.discard(name)
        return won

    def amend(self, name: CheckpointName, manifest: bytes) -> None:
        """See :class:`prs_med.checkpoint.place.Place`: one PUT."""
        self.store.write(f"{_MANIFESTS}{name}.json", manifest)

    def discard(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        self._clear_staging(name)
        try:
            _at_once(self.store.delete, self.store.names(f"{_REPORTS}{name}/"))
        except StorageError as error:
            _logger.debug("notes about %s stay for now: %s", name, error)

    def remove(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`; shared files stay."""
        try:
            doomed = parse_manifest(self.manifest(name), self.where(name)).all_files
        except BrokenCheckpointError:
            doomed = []  # What it named is swept later.
        kept = self._files_in_use(without=name)
        self.store.delete(f"{_MANIFESTS}{name}.json")
        _at_once(self.store.delete, sorted({_key(file) for file in doomed} - kept))

    def sweep(self, older_than: float) -> None:
        """See :class:`prs_med.checkpoint.place.Place`: drafts here; files of no checkpoint, and
        reports, there."""
        now = time.time()
        for draft in self._staging.glob(f"{_DRAFT}*"):
            if now - newest_change(draft) > older_than:
                shutil.rmtree(draft, ignore_errors=True)
        used = self._files_in_use()
        old = [
            key
            for prefix in (_FILES, _REPORTS)
            for key, changed in self._s3.changed(prefix).items()
            if key not in used and now - changed > older_than
        ]
        _at_once(self._sweep_one, old)

    def _sweep_one(self, key: str) -> None:
        ours = _OURS.fullmatch(key)
        if ours and ours["upload"]:
            self._s3.abandon(key)
        elif ours:
            self.store.delete(key)

    def _draft(self, name: CheckpointName) -> Path:
        return self._staging / f"{_DRAFT}{name}-{self.writer}"

    def _clear_staging(self, name: CheckpointName) -> None:
        shutil.rmtree(self._draft(name), ignore_errors=True)

    def _files_in_use(self, without: CheckpointName | None = None) -> set[str]:
        names = [name for name in self.checkpoints() if name != without]
        return {
            _key(file)
            for name, data in zip(names, _at_once(self.manifest, names), strict=True)
            for file in parse_manifest(data, self.where(name)).all_files
        }


def _at_once(ask: Callable[[T], R], about: Iterable[T]) -> list[R]:
    """What ``ask`` gives for each, in order, several at a time; the first error ends it."""
    things = list(about)
    if len(things) < 2:
        return [ask(thing) for thing in things]
    pool = ThreadPoolExecutor(min(len(things), CONNECTIONS), thread_name_prefix="s3")
    try:
        return list(pool.map(ask, things))
    finally:
        # What has not begun would fail in the same way.
        pool.shutdown(cancel_futures=True)


def _rank(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))


def _key(file: StoredFile) -> str:
    return f"{_FILES}{file.sha256}"
