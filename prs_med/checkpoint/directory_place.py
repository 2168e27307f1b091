"""Checkpoints in a folder: each is a folder of its own, which gets its name when it is complete.

::

    step-00000120-01/manifest.json  mllm-00000-000.safetensors  ...
    .draft-step-00000140-01/...
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from prs_med.checkpoint.manifest import MANIFEST, CheckpointName, StoredFile
from prs_med.storage.directory import UNFINISHED, DirectoryStore, sync_folder
from prs_med.storage.failures import folder_error
from prs_med.storage.store import Store

_DRAFT = ".draft-"
_REPORT = ".report-"


class DirectoryPlace:
    """See :class:`prs_med.checkpoint.place.Place`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store: Store = DirectoryStore(folder)

    def where(self, name: CheckpointName) -> str:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return str(self._folder / str(name))

    def checkpoints(self) -> list[CheckpointName]:
        """See :class:`prs_med.checkpoint.place.Place`."""
        try:
            entries = list(self._folder.iterdir()) if self._folder.is_dir() else []
            found = [
                name
                for entry in entries
                if (name := CheckpointName.parse(entry.name)) and (entry / MANIFEST).is_file()
            ]
        except OSError as error:
            raise folder_error(str(self._folder), error) from error
        return sorted(found)

    def manifest(self, name: CheckpointName) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.read(f"{name}/{MANIFEST}")

    def read(self, name: CheckpointName, file: StoredFile, offset: int, length: int) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.read(f"{name}/{file.name}", offset, length)

    def size(self, name: CheckpointName, file: StoredFile) -> int | None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return self.store.size(f"{name}/{file.name}")

    def begin(self, name: CheckpointName) -> Path:
        """See :class:`prs_med.checkpoint.place.Place`."""
        draft = self._draft(name)
        draft.mkdir(parents=True, exist_ok=True)
        return draft

    def publish(self, name: CheckpointName, file: StoredFile) -> None:
        """See :class:`prs_med.checkpoint.place.Place`; it is there already."""

    def report(self, name: CheckpointName, rank: int, text: bytes) -> None:
        """See :class:`prs_med.checkpoint.place.Place`.

        The draft is neither made nor brought to disk here: process 0 may end the save as soon as
        the note has its name, and the draft is gone then. :meth:`commit` brings it to disk.
        """
        note = self._draft(name) / f"{_REPORT}{rank:05d}"
        unfinished = note.with_name(f"{UNFINISHED}{rank:05d}")
        try:
            unfinished.write_bytes(text)
            os.replace(unfinished, note)
        except OSError as error:
            raise folder_error(str(note), error) from error

    def reports(self, name: CheckpointName, known: Collection[int] = ()) -> dict[int, bytes]:
        """See :class:`prs_med.checkpoint.place.Place`."""
        try:
            notes = sorted(self._draft(name).glob(f"{_REPORT}*"))
            by_rank = {int(note.name.rpartition("-")[2]): note for note in notes}
            return {rank: n.read_bytes() for rank, n in by_rank.items() if rank not in known}
        except OSError as error:
            raise folder_error(str(self._draft(name)), error) from error

    def commit(self, name: CheckpointName, manifest: bytes) -> bool:
        """See :class:`prs_med.checkpoint.place.Place`: a rename, after all in it is on disk."""
        draft, final = self._draft(name), self._folder / str(name)
        self.store.write(f"{_DRAFT}{name}/{MANIFEST}", manifest)
        try:
            for note in draft.glob(f"{_REPORT}*"):
                note.unlink()
            sync_folder(draft)
            draft.rename(final)
            sync_folder(self._folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise folder_error(str(final), error) from error
        return True

    def amend(self, name: CheckpointName, manifest: bytes) -> None:
        """See :class:`prs_med.checkpoint.place.Place`: a rename, too."""
        self.store.write(f"{name}/{MANIFEST}", manifest)

    def discard(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        shutil.rmtree(self._draft(name), ignore_errors=True)

    def remove(self, name: CheckpointName) -> None:
        """See :class:`prs_med.checkpoint.place.Place`."""
        folder = self._folder / str(name)
        self.store.delete(f"{name}/{MANIFEST}")
        try:
            sync_folder(folder)
            shutil.rmtree(folder)
        except OSError as error:
            raise folder_error(str(folder), error) from error

    def sweep(self, older_than: float) -> None:
        """See :class:`prs_med.checkpoint.place.Place`: drafts, and what was removed in part."""
        if not self._folder.is_dir():
            return
        for entry in self._folder.iterdir():
            unfinished = entry.name.startswith(_DRAFT) or (
                CheckpointName.parse(entry.name) and not (entry / MANIFEST).exists()
            )
            if unfinished and time.time() - newest_change(entry) > older_than:
                shutil.rmtree(entry, ignore_errors=True)
        for folder in ("", "attempts/"):
            for file in self._folder.glob(f"{folder}{UNFINISHED}*"):
                if time.time() - newest_change(file) > older_than:
                    file.unlink(missing_ok=True)

    def _draft(self, name: CheckpointName) -> Path:
        return self._folder / f"{_DRAFT}{name}"


def newest_change(folder: Path) -> float:
    """When anything below a folder, or the folder, was last written, in seconds of Unix time."""
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
