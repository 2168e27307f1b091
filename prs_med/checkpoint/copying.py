"""Bring a complete checkpoint from one place to another, each process a share of its files."""

from __future__ import annotations

from prs_med.checkpoint.checked_file import write_checked
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader


def copy_share(reader: CheckpointReader, target: Place, rank: int, world: int) -> None:
    """Copy what falls to process ``rank``; once all have, ``target.commit`` makes it complete.

    Raises:
        BrokenCheckpointError: a file is damaged where it comes from.
        OSError: one cannot be read or written.
    """
    folder = target.begin(reader.name)
    for file in reader.manifest.all_files[rank::world]:
        if write_checked(folder / file.name, reader.content(file)).sha256 != file.sha256:
            raise BrokenCheckpointError(f"{reader.where}: {file.name}: is damaged")
        target.publish(reader.name, file)
