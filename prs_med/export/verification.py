"""Whether training checkpoints are whole, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from tqdm import tqdm

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName, StoredFile
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.export.inspection import size_text
from prs_med.storage.store import StorageAwayError, StorageError


def verify(
    place: Place, names: list[CheckpointName], *, show_progress: bool
) -> Iterator[tuple[str, str]]:
    """For each checkpoint a line about it, and what is wrong with it: nothing, if it is whole.

    All bytes are read and compared with their checksums, and all elements of all parameters must
    be there. What cannot be read counts as broken.

    Raises:
        StorageAwayError: the store does not answer for now, which says nothing about checkpoints.
    """
    for name in names:
        where = place.where(name)
        try:
            reader = CheckpointReader(place, name)
            total = sum(file.size for file in reader.manifest.all_files)
            with tqdm(
                total=total, desc=str(name), unit="B", unit_scale=True, disable=not show_progress,
                leave=False,
            ) as bar:  # fmt: skip
                reader.place = cast(Place, _Watched(place, bar.update))
                reader.verify()
        except StorageAwayError:
            raise
        except (BrokenCheckpointError, StorageError) as error:
            # Most messages start with the checkpoint's name already.
            yield f"BROKEN  {where}", str(error).removeprefix(f"{where}: ")
        else:
            files = len(reader.manifest.all_files)
            yield f"whole   {where}  ({files} files, {size_text(total)})", ""


class _Watched:
    """A place that tells how many bytes are read, and which file cannot be."""

    def __init__(self, place: Place, seen: Callable[[int], object]) -> None:
        self._place = place
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def read(self, name: CheckpointName, file: StoredFile, offset: int, length: int) -> bytes:
        try:
            data = self._place.read(name, file, offset, length)
        except StorageError as error:
            # On S3 the object has another name.
            raise type(error)(f"{file.name}: {error}") from error
        self._seen(len(data))
        return data
