"""``manifest.json``: what a checkpoint consists of. A checkpoint that has one is complete.

docs/checkpoint-format.md describes the format for readers in other languages.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.storage import strict_json

FORMAT = 1
MANIFEST = "manifest.json"
BLOCK = 1 << 20
"""Bytes of a file that share a checksum; the last block of a file is shorter."""

_NAME = re.compile(r"step-(\d{8,})-(\d{2,})")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class CheckpointName:
    """Ordered by age: what a later attempt saves is newer, whatever its step."""

    attempt: int
    """How many times the run had been started, this time included."""
    step: int
    """Optimizer steps behind it."""

    def __str__(self) -> str:
        return f"step-{self.step:08d}-{self.attempt:02d}"

    @staticmethod
    def parse(text: str) -> CheckpointName | None:
        """The name that ``text`` is, or None."""
        match = _NAME.fullmatch(text)
        name = CheckpointName(int(match[2]), int(match[1])) if match else None
        return name if str(name) == text else None  # There is one spelling of each.


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    crc32: list[int]
    """CRC-32 of each block of :data:`BLOCK` bytes, so that a part can be checked on its own."""


@dataclass(frozen=True)
class Shard:
    """A safetensors file with fragments of parameters and of what the optimizer keeps for them.

    It holds one float32 vector per kind, ``{group}/{kind}``, one after the other from byte
    ``data_start`` on: the fragments, concatenated.
    """

    file: StoredFile
    group: str
    rank: int
    """Process that wrote it."""
    kinds: list[str]
    """Such as ``master``, ``exp_avg``, ``exp_avg_sq``."""
    data_start: int
    fragments: list[list[int]]
    """Each [index of the parameter in its group, first element, number of elements]; elements are
    those of the flattened parameter."""

    @property
    def elements(self) -> int:
        """Length of each vector."""
        return sum(length for _, _, length in self.fragments)


@dataclass(frozen=True)
class Parameter:
    """A parameter that is trained."""

    name: str
    shape: list[int]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """The parameters of one optimizer."""

    parameters: list[Parameter]
    optimizer_steps: int
    """Updates behind the optimizer's moments."""


@dataclass(frozen=True)
class Manifest:
    """A checkpoint."""

    name: str
    run: str
    """Identity of the run, the same in all its attempts."""
    created: str
    """UTC, ISO 8601."""
    world_size: int
    """Processes that saved it."""
    groups: dict[str, Group]
    shards: list[Shard]
    files: list[StoredFile]
    """Further files, such as buffers and the metrics so far."""
    state: dict[str, Any] = field(default_factory=dict)
    """What training says about itself: step, settings, state of the data, and so on. A number that
    is not finite is None when it has been read back."""

    @property
    def all_files(self) -> list[StoredFile]:
        """Every file but the manifest."""
        return [*(shard.file for shard in self.shards), *self.files]

    def dumps(self) -> bytes:
        """The bytes of the file: JSON whose last entry is the SHA-256 of what it is without it."""
        return _sealed(strict_json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")))


def _sealed(text: str) -> bytes:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"sha256":"{digest}"}}\n'.encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in ``data``.

    Raises:
        BrokenCheckpointError: it is damaged, none, or of another format; starts with ``where``.
    """
    try:
        text = data.decode()
        body, separator, _ = text.rpartition(',"sha256":"')
        if not separator or _sealed(body + "}") != data:
            raise BrokenCheckpointError(f"{where}: is damaged: its own checksum is wrong")
        loaded = json.loads(text)
        if loaded.pop("format") != FORMAT:
            raise BrokenCheckpointError(f"{where}: has a format that this version does not read")
        del loaded["sha256"]
        shards = [
            Shard(**{**shard, "file": StoredFile(**shard["file"])}) for shard in loaded["shards"]
        ]
        groups = {
            name: Group([Parameter(**p) for p in group["parameters"]], group["optimizer_steps"])
            for name, group in loaded["groups"].items()
        }
        files = [StoredFile(**file) for file in loaded["files"]]
        known = {spec.name for spec in fields(Manifest)}
        manifest = Manifest(
            **{
                **{key: value for key, value in loaded.items() if key in known},
                "shards": shards,
                "groups": groups,
                "files": files,
            }
        )
        for file in manifest.all_files:
            _check_file(file, where)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenCheckpointError(f"{where}: is no manifest of a checkpoint ({error})") from None
    return manifest


def _check_file(file: StoredFile, where: str) -> None:
    # Both become parts of paths.
    if not _FILE_NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
        raise BrokenCheckpointError(
            f"{where}: names a file {file.name!r} ({file.sha256!r}) outside its folder"
        )
    if file.size < 0 or len(file.crc32) != -(-file.size // BLOCK):
        raise BrokenCheckpointError(f"{where}: the checksums of {file.name} do not fit its size")
