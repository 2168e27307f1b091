"""Checkpoints on S3: files lie under the SHA-256 of their content, and the manifest is put last.

::

    manifests/step-00000120-01.json
    files/<sha256>
    reports/step-00000140-01/00000.json
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from prs_med.checkpoint.directory_place import newest_change
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, StoredFile, parse_manifest
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError, Store

_DRAFT = ".draft-"
_MANIFESTS = "manifests/"
_FILES = "files/"
_REPORTS = "reports/"


class S3Place:
    """See :class:`prs_med.checkpoint.place.Place`; files pass through ``staging``, local."""

    def __init__(self, store: S3Store, staging: Path) -> None:
        self._s3 = store
        self.store: Store = store
        self._staging = staging

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

    def begin(self, name: CheckpointName) -> Path:
        """See :class:`prs_med.checkpoint.place.Place`."""
        draft = self._staging / f"{_DRAFT}{name}-{os.getpid()}"
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

    def reports(self, name: CheckpointName) -> dict[int, bytes]:
        """See :class:`prs_med.checkpoint.place.Place`."""
        keys = self.store.names(f"{_REPORTS}{name}/")
        return {int(key[-10:-5]): self.store.read(key) for key in keys}

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

    def discard(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        self._clear_staging(name)
        with suppress(StorageError):
            for key in self.store.names(f"{_REPORTS}{name}/"):
                self.store.delete(key)

    def remove(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`; shared files stay."""
        try:
            doomed = parse_manifest(self.manifest(name), self.where(name)).all_files
        except BrokenCheckpointError:
            doomed = []  # What it named is swept later.
        kept = self._files_in_use(without=name)
        self.store.delete(f"{_MANIFESTS}{name}.json")
        for key in {_key(file) for file in doomed} - kept:
            self.store.delete(key)

    def sweep(self, older_than: float) -> None:
        """See :class:`prs_med.checkpoint.place.Place`: drafts here; files of no checkpoint, and
        reports, there."""
        now = time.time()
        for draft in self._staging.glob(f"{_DRAFT}*"):
            if now - newest_change(draft) > older_than:
                shutil.rmtree(draft, ignore_errors=True)
        used = self._files_in_use()
        for prefix in (_FILES, _REPORTS):
            for key, changed in self._s3.changed(prefix).items():
                if key not in used and now - changed > older_than:
                    self.store.delete(key)

    def _clear_staging(self, name: CheckpointName) -> None:
        shutil.rmtree(self._staging / f"{_DRAFT}{name}-{os.getpid()}", ignore_errors=True)

    def _files_in_use(self, without: CheckpointName | None = None) -> set[str]:
        used = set()
        for name in self.checkpoints():
            if name != without:
                manifest = parse_manifest(self.manifest(name), self.where(name))
                used |= {_key(file) for file in manifest.all_files}
        return used


def _key(file: StoredFile) -> str:
    return f"{_FILES}{file.sha256}"
