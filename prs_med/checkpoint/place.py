"""Where checkpoints are kept, be it a folder or S3: what saving and loading ask of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from prs_med.checkpoint.manifest import CheckpointName, StoredFile
from prs_med.storage.store import Store


class Place(Protocol):
    """All methods may be called from several threads and processes."""

    store: Store
    """For small files beside the checkpoints."""

    def where(self, name: CheckpointName) -> str:
        """The full name of a checkpoint, for messages."""

    def checkpoints(self) -> list[CheckpointName]:
        """The complete ones, oldest first."""

    def manifest(self, name: CheckpointName) -> bytes:
        """The bytes of a checkpoint's manifest."""

    def read(self, name: CheckpointName, file: StoredFile, offset: int, length: int) -> bytes:
        """Bytes of a file of a complete checkpoint."""

    def size(self, name: CheckpointName, file: StoredFile) -> int | None:
        """How many bytes a file of a complete checkpoint has now; None if it is gone."""

    def begin(self, name: CheckpointName) -> Path:
        """The local folder to write the files of a new checkpoint into."""

    def publish(self, name: CheckpointName, file: StoredFile) -> None:
        """Bring a file that lies in the folder to where it belongs."""

    def report(self, name: CheckpointName, rank: int, text: bytes) -> None:
        """Leave a note that process ``rank`` is done, or that it failed."""

    def reports(self, name: CheckpointName, known: Collection[int] = ()) -> dict[int, bytes]:
        """The notes that were left, by process, but for those of the processes ``known``."""

    def commit(self, name: CheckpointName, manifest: bytes) -> bool:
        """Make the checkpoint complete, in one step; False if there is one of that name."""

    def amend(self, name: CheckpointName, manifest: bytes) -> None:
        """Give a complete checkpoint another manifest of the same files, in one step."""

    def discard(self, name: CheckpointName) -> None:
        """Remove what was begun and not committed, as far as that can be done."""

    def remove(self, name: CheckpointName) -> None:
        """Remove a complete checkpoint: first its manifest, so that no half of one is left."""

    def sweep(self, older_than: float) -> None:
        """Remove what crashes have left, if it has not been touched for so many seconds."""
