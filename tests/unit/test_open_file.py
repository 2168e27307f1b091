"""A file that is kept open for many small reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prs_med.storage.directory import DirectoryStore
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import MissingFileError, StorageError


def test_any_part_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    file = DirectoryStore(tmp_path).open("file")
    assert file.read(5, 3) == bytes([5, 6, 7])
    file.will_need(1000, 900_000)
    assert file.read(1000, 900_000) == path.read_bytes()[1000:901_000]
    assert file.read(2**20, 0) == b""
    with pytest.raises(StorageError, match=rf"^{path}: ends at byte 1048576, but 1048579 were"):
        file.read(2**20 - 1, 4)


def test_reads_that_come_in_pieces_are_put_together(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, n, at: whole(handle, min(n, 3), at))
    assert OpenFile(path).read(1, 8) == b"12345678"


def test_it_is_closed_with_its_last_user(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    file = OpenFile(path)
    handle, read = file._handle, file.read
    del file
    assert read(0, 2) == b"01"
    del read
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=rf"^{tmp_path}/gone: no such file"):
        OpenFile(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=rf"^{tmp_path}/file/below: Not a directory"):
        OpenFile(tmp_path / "file" / "below")
