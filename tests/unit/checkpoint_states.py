"""Checkpoints for tests: states of any shape, saved by any number of processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import MANIFEST, CheckpointName, Parameter, StoredFile
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.saver import Outcome, Saver
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments, Snapshot
from prs_med.storage.store import Store
from tests.crash.cutting import owned_part

NAME = CheckpointName(1, 7)
KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass
class State:
    """All of what training has: by group the parameters and the concatenations of each kind."""

    parameters: dict[str, list[Parameter]]
    vectors: dict[str, dict[str, np.ndarray]]

    @staticmethod
    def random(shapes: dict[str, list[list[int]]], seed: int = 0) -> State:
        """Any bits, among them those of NaN and infinity."""
        rng = np.random.default_rng(seed)
        parameters = {
            group: [Parameter(f"{group}.layer{n}.weight", list(shape)) for n, shape in enumerate(s)]
            for group, s in shapes.items()
        }
        vectors = {
            group: {
                kind: np.frombuffer(rng.bytes(4 * sum(p.numel for p in owned)), np.float32)
                for kind in KINDS
            }
            for group, owned in parameters.items()
        }
        return State(parameters, vectors)

    def part(self, group: str, fragments: list[Fragment]) -> OwnedFragments:
        """What a process with these fragments holds."""
        return owned_part(self.parameters[group], fragments, self.vectors[group])


@dataclass
class Further:
    """What process 0 adds."""

    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    state: dict[str, object] = field(default_factory=dict)


def snapshots(
    state: State, cuts: dict[str, list[list[Fragment]]], further: Further | None = None
) -> list[Snapshot]:
    """What each process contributes."""
    further = further or Further()
    world = len(next(iter(cuts.values())))
    return [
        Snapshot(
            {group: state.part(group, cut[rank]) for group, cut in cuts.items()},
            further.buffers,
            further.files,
            further.state,
        )
        for rank in range(world)
    ]


def save(
    places: Place | list[Place],
    parts: list[Snapshot],
    name: CheckpointName = NAME,
    shard_bytes: int = 1 << 30,
) -> Outcome:
    """Save as so many processes as there are parts; what became of it in process 0."""
    world = len(parts)
    each = places if isinstance(places, list) else [places] * world
    outcome = None
    for rank in reversed(range(world)):  # So that process 0 need not wait.
        saver = Saver(each[rank], rank, world, "run", shard_bytes=shard_bytes)
        saver.save(name, parts[rank])
        outcome = saver.wait()
    assert outcome is not None
    return outcome


def load(reader: CheckpointReader, state: State, cuts: dict[str, list[list[Fragment]]]) -> None:
    """Load as so many processes as are in ``cuts``, and compare bit for bit."""
    for group, cut in cuts.items():
        for fragments in cut:
            expected = state.part(group, fragments)
            found = state.part(group, fragments)
            for vector in found.vectors.values():
                vector[:] = 0
            reader.fill(group, found)
            for kind in KINDS:
                assert found.vectors[kind].tobytes() == expected.vectors[kind].tobytes()


class HeldPlace:
    """A checkpoint of a folder in memory, where bytes can be changed, and are counted when read."""

    def __init__(self, place: DirectoryPlace, name: CheckpointName = NAME) -> None:
        self.store: Store = place.store
        self.where = place.where
        folder = Path(place.where(name))
        self.files = {path.name: bytearray(path.read_bytes()) for path in folder.iterdir()}
        self.bytes_read = 0

    def manifest(self, name: CheckpointName) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        return bytes(self.files[MANIFEST])

    def read(self, name: CheckpointName, file: StoredFile, offset: int, length: int) -> bytes:
        """See :class:`prs_med.checkpoint.place.Place`."""
        self.bytes_read += length
        return bytes(self.files[file.name][offset : offset + length])

    def reader(self, name: CheckpointName = NAME) -> CheckpointReader:
        """Of the checkpoint."""
        return CheckpointReader(self, name)  # type: ignore[arg-type]
