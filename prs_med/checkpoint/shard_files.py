"""From a snapshot to the files that one process writes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prs_med.checkpoint.checked_file import safetensors_parts, write_checked
from prs_med.checkpoint.manifest import Shard, StoredFile
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments, Snapshot

SHARD_BYTES = 1 << 30
"""Most that a shard holds: one PUT, whose failure costs little."""
BUFFERS = "buffers.safetensors"


@dataclass(frozen=True)
class WrittenFiles:
    """What one process wrote."""

    shards: list[Shard]
    files: list[StoredFile]


def write_files(
    folder: Path, snapshot: Snapshot, rank: int, shard_bytes: int = SHARD_BYTES
) -> Iterator[Shard | StoredFile]:
    """Write what ``rank`` contributes to ``folder``, giving each file as it is on disk.

    Raises:
        OSError: they cannot be written.
    """
    for group, owned in snapshot.groups.items():
        for part, (fragments, first) in enumerate(_parts(owned, shard_bytes)):
            yield _write_shard(folder, group, owned, fragments, first, rank, part)
    if rank == 0:
        if snapshot.buffers:
            parts, _ = safetensors_parts(snapshot.buffers, {"format": "prs_med"})
            yield write_checked(folder / BUFFERS, parts)
        for name, content in snapshot.files.items():
            yield write_checked(folder / name, [content])


def _parts(owned: OwnedFragments, shard_bytes: int) -> Iterator[tuple[list[Fragment], int]]:
    """Fragments in lists that fit into a shard each, with the number of elements before them."""
    room = max(1, shard_bytes // (4 * max(1, len(owned.vectors))))
    members: list[Fragment] = []
    first = held = 0
    for fragment in owned.fragments:
        start, left = fragment.start, fragment.length
        while left:
            take = min(left, room - held)
            members.append(Fragment(fragment.parameter, start, take))
            start, left, held = start + take, left - take, held + take
            if held == room:
                yield members, first
                members, first, held = [], first + held, 0
    if members:
        yield members, first


def _write_shard(
    folder: Path,
    group: str,
    owned: OwnedFragments,
    fragments: list[Fragment],
    first: int,
    rank: int,
    part: int,
) -> Shard:
    elements = sum(fragment.length for fragment in fragments)
    table = [[f.parameter, f.start, f.length] for f in fragments]
    names = [[owned.parameters[f.parameter].name, f.start, f.length] for f in fragments]
    parts, data_start = safetensors_parts(
        {
            f"{group}/{kind}": vector[first : first + elements]
            for kind, vector in owned.vectors.items()
        },
        {"format": "prs_med", "fragments": json.dumps(names, separators=(",", ":"))},
    )
    file = write_checked(folder / f"{group}-{rank:05d}-{part:03d}.safetensors", parts)
    return Shard(file, group, rank, list(owned.vectors), data_start, table)
