"""Read a checkpoint on any number of processes: each takes the slices that it needs."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prs_med.checkpoint.checked_file import ReadRange, read_checked, verify_whole
from prs_med.checkpoint.errors import BrokenCheckpointError, UnfittingCheckpointError
from prs_med.checkpoint.manifest import (
    BLOCK,
    CheckpointName,
    Manifest,
    Shard,
    StoredFile,
    parse_manifest,
)
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.shard_files import BUFFERS
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments
from prs_med.storage.store import MissingFileError, StorageAwayError, StorageError

_READ_AT_ONCE = 64 * BLOCK
_SAFETENSORS_TYPES = {
    "F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32, "U8": np.uint8
}  # fmt: skip


@dataclass(frozen=True)
class _Stored:
    """A stored fragment: ``length`` elements of a parameter from ``start`` on."""

    start: int
    length: int
    shard: Shard
    at: int
    """Where it starts in the shard's vectors."""


@dataclass(frozen=True)
class _Copy:
    """Elements of a shard's vectors that go to a place in the wanted vectors."""

    source: int
    target: int
    length: int


class CheckpointReader:
    """A complete checkpoint."""

    def __init__(
        self, place: Place, name: CheckpointName, manifest: Manifest | None = None
    ) -> None:
        """Reads the manifest, unless it is given.

        Raises:
            BrokenCheckpointError: it is damaged.
            StorageError: it cannot be read.
        """
        self.place = place
        self.name = name
        self.where = place.where(name)
        self.manifest = manifest or parse_manifest(place.manifest(name), self.where)
        if self.manifest.name != str(name):
            raise BrokenCheckpointError(f"{self.where}: is the manifest of {self.manifest.name}")
        self._fragments: dict[tuple[str, int], list[_Stored]] | None = None

    def check_parameters(self, group: str, owned: OwnedFragments) -> None:
        """Make sure that a group has the very parameters of ``owned``.

        Raises:
            UnfittingCheckpointError: naming what differs.
        """
        stored = self.manifest.groups.get(group)
        if stored is None:
            raise UnfittingCheckpointError(f"{self.where}: nothing of {group!r} was trained in it")
        theirs = {p.name: p.shape for p in stored.parameters}
        ours = {p.name: p.shape for p in owned.parameters}
        for problem, names in (
            ("does not hold", sorted(ours.keys() - theirs.keys())),
            ("holds, and this model does not train,", sorted(theirs.keys() - ours.keys())),
        ):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise UnfittingCheckpointError(f"{self.where}: {problem} {names[0]}{more}")
        for name, shape in ours.items():
            if theirs[name] != shape:
                raise UnfittingCheckpointError(
                    f"{self.where}: {name} has the shape {tuple(theirs[name])}, here it is "
                    f"{tuple(shape)}"
                )

    def kinds(self, group: str) -> set[str]:
        """The vectors that are kept of every fragment of a group."""
        kept = [set(shard.kinds) for shard in self.manifest.shards if shard.group == group]
        return set.intersection(*kept) if kept else set()

    def fill(self, group: str, owned: OwnedFragments) -> None:
        """Read the fragments of ``owned`` into its vectors, of all their kinds.

        Raises:
            BrokenCheckpointError: a file is damaged.
            UnfittingCheckpointError: it is of another model.
            StorageError: a file cannot be read.
        """
        self.check_parameters(group, owned)
        index = {p.name: i for i, p in enumerate(self.manifest.groups[group].parameters)}
        copies: dict[str, list[_Copy]] = defaultdict(list)
        shards: dict[str, Shard] = {}
        target = 0
        for fragment in owned.fragments:
            stored = index[owned.parameters[fragment.parameter].name]
            for piece, shard in self._pieces(group, stored, fragment.start, fragment.length):
                copies[shard.file.name].append(_Copy(piece.source, target, piece.length))
                shards[shard.file.name] = shard
                target += piece.length
        for name, wanted in copies.items():
            for kind, vector in owned.vectors.items():
                self._copy(shards[name], kind, wanted, vector)
        owned.optimizer_steps = self.manifest.groups[group].optimizer_steps

    def whole(self, group: str, kind: str) -> dict[str, np.ndarray]:
        """All parameters of a group, by name."""
        parameters = self.manifest.groups[group].parameters
        found = {}
        for number, parameter in enumerate(parameters):
            vector = np.empty(parameter.numel, np.float32)
            all_of_it = [Fragment(number, 0, parameter.numel)]
            self.fill(group, OwnedFragments(parameters, all_of_it, {kind: vector}))
            found[parameter.name] = vector.reshape(parameter.shape)
        return found

    def buffers(self) -> dict[str, np.ndarray]:
        """The whole arrays."""
        file = self._file(BUFFERS)
        if file is None:
            return {}
        data = self._read(file, 0, file.size)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            raw = data[8 + length + start : 8 + length + end]
            arrays[name] = np.frombuffer(raw, _SAFETENSORS_TYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
        return arrays

    def file(self, name: str) -> bytes | None:
        """The content of a further file, if there is one of the name."""
        found = self._file(name)
        return None if found is None else self._read(found, 0, found.size)

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """A file piece by piece, each compared with its checksums."""
        for start in range(0, file.size, _READ_AT_ONCE):
            yield self._read(file, start, min(_READ_AT_ONCE, file.size - start))

    def verify(self) -> None:
        """Compare every byte with its checksums, and the fragments with the parameters.

        Raises:
            BrokenCheckpointError: naming the file at fault.
            StorageError: a file cannot be read.
        """
        for file in self.manifest.all_files:
            verify_whole(self._reader_of(file), file, self._where(file))
        for group, described in self.manifest.groups.items():
            for number, parameter in enumerate(described.parameters):
                for _ in self._pieces(group, number, 0, parameter.numel):
                    pass

    def _file(self, name: str) -> StoredFile | None:
        return next((file for file in self.manifest.files if file.name == name), None)

    def _where(self, file: StoredFile) -> str:
        return f"{self.where}: {file.name}"

    def _reader_of(self, file: StoredFile) -> ReadRange:
        def read(offset: int, length: int) -> bytes:
            try:
                return self.place.read(self.name, file, offset, length)
            except MissingFileError:
                raise BrokenCheckpointError(f"{self._where(file)}: is missing") from None
            except StorageAwayError:
                raise
            except StorageError:
                size = self.place.size(self.name, file)
                if size is None or size >= offset + length:
                    raise
                raise BrokenCheckpointError(
                    f"{self._where(file)}: is damaged: {size} bytes are left of {file.size}"
                ) from None

        return read

    def _read(self, file: StoredFile, offset: int, length: int) -> bytes:
        return read_checked(self._reader_of(file), file, offset, length, self._where(file))

    def _pieces(
        self, group: str, parameter: int, start: int, length: int
    ) -> list[tuple[_Copy, Shard]]:
        """Which parts of which shards together are a stretch of a parameter."""
        if self._fragments is None:
            self._fragments = self._index()
        stored = self._fragments[group, parameter]
        pieces, end = [], start + length
        number = max(0, bisect_right(stored, start, key=lambda s: s.start) - 1)
        while start < end:
            if number == len(stored) or not (
                stored[number].start <= start < stored[number].start + stored[number].length
            ):
                name = self.manifest.groups[group].parameters[parameter].name
                raise BrokenCheckpointError(f"{self.where}: element {start} of {name} is missing")
            one = stored[number]
            one_end = one.start + one.length
            take = min(end, one_end, start + _READ_AT_ONCE // 4) - start
            pieces.append((_Copy(one.at + start - one.start, 0, take), one.shard))
            start += take
            number += start == one_end
        return pieces

    def _index(self) -> dict[tuple[str, int], list[_Stored]]:
        found: dict[tuple[str, int], list[_Stored]] = defaultdict(list)
        for shard in self.manifest.shards:
            at = 0
            for parameter, start, length in shard.fragments:
                found[shard.group, parameter].append(_Stored(start, length, shard, at))
                at += length
        for stored in found.values():
            stored.sort(key=lambda s: s.start)
        return found

    def _copy(self, shard: Shard, kind: str, wanted: list[_Copy], vector: np.ndarray) -> None:
        """Copy elements of one of a shard's vectors, reading neighbours together."""
        if kind not in shard.kinds:
            raise BrokenCheckpointError(f"{self.where}: holds no {kind} of {shard.group}")
        base = shard.data_start + 4 * shard.elements * shard.kinds.index(kind)
        for run in _runs(sorted(wanted, key=lambda copy: copy.source)):
            first, end = run[0].source, run[-1].source + run[-1].length
            data = self._read(shard.file, base + 4 * first, 4 * (end - first))
            values = np.frombuffer(data, "<f4")
            for copy in run:
                at = copy.source - first
                vector[copy.target : copy.target + copy.length] = values[at : at + copy.length]


def _runs(copies: list[_Copy]) -> list[list[_Copy]]:
    """Split a list where reading on would take in too much, or too much that nobody wants."""
    runs: list[list[_Copy]] = []
    for copy in copies:
        if runs:
            first, last = runs[-1][0], runs[-1][-1]
            gap = 4 * (copy.source - last.source - last.length)
            if gap < BLOCK and 4 * (copy.source + copy.length - first.source) <= _READ_AT_ONCE:
                runs[-1].append(copy)
                continue
        runs.append([copy])
    return runs
