"""Files with checksums: written in one pass, verified as a whole or block by block."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import BLOCK, StoredFile

ReadRange = Callable[[int, int], bytes]
"""Gives the bytes of a file from an offset on, of a length."""

_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8"}


def write_checked(path: Path, parts: Iterable[memoryview | bytes]) -> StoredFile:
    """Write ``parts`` one after the other and bring them to disk.

    Raises:
        OSError: they cannot be written; nothing is left of them then.
    """
    try:
        with path.open("wb") as file:
            record = _write_blocks(file, parts, path.name)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # On a full disk there has to be room for the note that says so.
        with suppress(OSError):
            path.unlink()
        raise
    return record


def _write_blocks(file: BinaryIO, parts: Iterable[memoryview | bytes], name: str) -> StoredFile:
    digest, crcs, size, crc = hashlib.sha256(), [], 0, 0
    for part in parts:
        whole = memoryview(part).cast("B")
        at = 0
        while at < len(whole):
            piece = whole[at : at + BLOCK - size % BLOCK]
            file.write(piece)
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
            at, size = at + len(piece), size + len(piece)
            if size % BLOCK == 0:
                crcs.append(crc)
                crc = 0
    if size % BLOCK:
        crcs.append(crc)
    return StoredFile(name, size, digest.hexdigest(), crcs)


def safetensors_parts(
    tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> tuple[list[memoryview | bytes], int]:
    """The bytes of a safetensors file (github.com/huggingface/safetensors) without copying the
    arrays, and where its data starts. The library's own writer wants all of it in memory again."""
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    arrays = [np.ascontiguousarray(array).reshape(-1).data for array in tensors.values()]
    return [start, *(a for a in arrays if a.nbytes)], len(start)


def read_checked(read: ReadRange, file: StoredFile, offset: int, length: int, where: str) -> bytes:
    """Part of a file, after the blocks that it lies in were checked.

    Raises:
        BrokenCheckpointError: naming the file, if a checksum is wrong.
    """
    first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
    start, stop = first * BLOCK, min(end * BLOCK, file.size)
    if length == 0:
        return b""
    if offset < 0 or offset + length > file.size:
        raise BrokenCheckpointError(f"{where}: ends before byte {offset + length}")
    data = read(start, stop - start)
    if _wrong_block(data, file, first) is not None:
        data = read(start, stop - start)  # It may have been damaged on its way here only.
    if (block := _wrong_block(data, file, first)) is not None:
        raise BrokenCheckpointError(
            f"{where}: is damaged: wrong checksum of bytes "
            f"{block * BLOCK} to {min((block + 1) * BLOCK, file.size)}"
        )
    return data if (start, stop) == (offset, offset + length) else data[offset - start :][:length]


def _wrong_block(data: bytes, file: StoredFile, first: int) -> int | None:
    """Number of the first block whose checksum is wrong; ``data`` starts with block ``first``."""
    view = memoryview(data)
    for at in range(0, len(data), BLOCK):
        block = first + at // BLOCK
        if zlib.crc32(view[at : at + BLOCK]) != file.crc32[block]:
            return block
    return None


def verify_whole(read: ReadRange, file: StoredFile, where: str) -> None:
    """Compare every byte of a file with its checksums.

    Raises:
        BrokenCheckpointError: naming the file.
    """
    digest = hashlib.sha256()
    for start in range(0, file.size, 16 * BLOCK):
        length = min(16 * BLOCK, file.size - start)
        digest.update(read_checked(read, file, start, length, where))
    if digest.hexdigest() != file.sha256:
        raise BrokenCheckpointError(f"{where}: is damaged: its SHA-256 is wrong")
