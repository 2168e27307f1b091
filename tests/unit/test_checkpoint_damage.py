"""Whatever is damaged or missing is found, by verification and by loading, and named."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from prs_med.checkpoint.copying import copy_share
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import BLOCK, MANIFEST
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.storage.store import StorageAwayError, StorageError
from tests.crash.cutting import zero2, zero3
from tests.unit.checkpoint_states import NAME, Further, HeldPlace, State, load, save, snapshots

FURTHER = Further({"mean": np.arange(3.0)}, {"metrics.jsonl": b'{"step": 7}\n'}, {"step": 7})
FILES = (
    *("mllm-00000-000.safetensors", "mllm-00001-000.safetensors"),
    *("buffers.safetensors", "metrics.jsonl", MANIFEST),
)


def saved(folder: Path, shapes: list[list[int]]) -> tuple[State, DirectoryPlace]:
    state = State.random({"mllm": shapes})
    place = DirectoryPlace(folder)
    save(place, snapshots(state, {"mllm": zero2(state.parameters["mllm"], 2)}, FURTHER))
    return state, place


@pytest.fixture
def small(tmp_path: Path) -> tuple[State, DirectoryPlace]:
    return saved(tmp_path, [[3], [2, 5]])


def test_a_flipped_bit_in_any_byte_of_any_file_is_found(
    small: tuple[State, DirectoryPlace],
) -> None:
    state, place = small
    held = HeldPlace(place)
    assert sorted(held.files) == sorted(FILES)
    rng = random.Random(0)
    readers = {"mllm": zero3(state.parameters["mllm"], 3)}
    sound = held.reader()
    for name, content in held.files.items():
        for at in range(len(content)):
            flip = 1 << rng.randrange(8)
            content[at] ^= flip
            with pytest.raises(BrokenCheckpointError, match=f"step-00000007-01.*{_named(name)}"):
                held.reader().verify()
            if name.startswith("mllm"):
                with pytest.raises(BrokenCheckpointError, match=name):
                    load(sound, state, readers)
            content[at] ^= flip
    held.reader().verify()
    load(sound, state, readers)


def _named(name: str) -> str:
    return "(its own checksum is wrong|is no manifest)" if name == MANIFEST else name


def test_damage_is_found_in_any_block_of_a_large_file(tmp_path: Path) -> None:
    state, place = saved(tmp_path, [[500_000], [11]])
    held = HeldPlace(place)
    shard = held.files["mllm-00001-000.safetensors"]
    assert len(shard) > 2 * BLOCK
    rng = random.Random(1)
    readers = {"mllm": zero3(state.parameters["mllm"], 3)}
    edges = [0, BLOCK - 1, BLOCK, 2 * BLOCK, len(shard) - 1]
    for at in [*edges, *(rng.randrange(len(shard)) for _ in range(10))]:
        shard[at] ^= 1
        first = at // BLOCK * BLOCK
        last = min(first + BLOCK, len(shard))
        expected = f"mllm-00001-000.safetensors: .*checksum of bytes {first} to {last}"
        with pytest.raises(BrokenCheckpointError, match=expected):
            held.reader().verify()
        with pytest.raises(BrokenCheckpointError, match=expected):
            load(held.reader(), state, readers)
        shard[at] ^= 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [None, 0, 1, -1])
def test_truncated_and_missing_files_are_named(
    small: tuple[State, DirectoryPlace], name: str, left: int | None
) -> None:
    """``left``: how much of the file stays; None if the file is missing."""
    state, place = small
    path = Path(place.where(NAME)) / name
    content = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(content[:left])
    # Without a manifest there is no checkpoint that could be damaged.
    found = StorageError if name == MANIFEST and left is None else BrokenCheckpointError
    named = "step-00000007-01" if name == MANIFEST else f"step-00000007-01.*{name}"
    with pytest.raises(found, match=named):
        CheckpointReader(place, NAME).verify()
    if name.startswith("mllm"):
        with pytest.raises(BrokenCheckpointError, match=name):
            load(CheckpointReader(place, NAME), state, {"mllm": zero3(state.parameters["mllm"], 2)})


def test_a_file_of_another_checkpoint_is_found_out(tmp_path: Path) -> None:
    """As many bytes, and sound in itself."""
    _, place = saved(tmp_path / "one", [[3], [2, 5]])
    other = State.random({"mllm": [[3], [2, 5]]}, seed=1)
    place_of_other = DirectoryPlace(tmp_path / "other")
    cuts = {"mllm": zero2(other.parameters["mllm"], 2)}
    save(place_of_other, snapshots(other, cuts, FURTHER))
    name = "mllm-00001-000.safetensors"
    foreign = (Path(place_of_other.where(NAME)) / name).read_bytes()
    (Path(place.where(NAME)) / name).write_bytes(foreign)
    with pytest.raises(BrokenCheckpointError, match=name):
        CheckpointReader(place, NAME).verify()


def test_a_checkpoint_under_another_name_is_refused(small: tuple[State, DirectoryPlace]) -> None:
    _, place = small
    folder = Path(place.where(NAME))
    renamed = folder.rename(folder.with_name("step-00000008-01"))
    with pytest.raises(BrokenCheckpointError, match=f"{renamed.name}: is the manifest of .*07-01"):
        CheckpointReader(place, place.checkpoints()[0])


@pytest.mark.parametrize(
    "failure", [StorageAwayError("no answer"), StorageError("permission denied")]
)
def test_what_cannot_be_read_is_not_taken_for_damaged(
    small: tuple[State, DirectoryPlace], monkeypatch: pytest.MonkeyPatch, failure: StorageError
) -> None:
    def fail(*_: object) -> bytes:
        raise failure

    state, place = small
    reader = CheckpointReader(place, NAME)
    monkeypatch.setattr(place, "read", fail)
    for read in (reader.verify, lambda: load(reader, state, {"mllm": zero3(
            state.parameters["mllm"], 2)})):  # fmt: skip
        with pytest.raises(StorageError, match=str(failure)) as raised:
            read()
        assert raised.type is type(failure)


@pytest.mark.parametrize("world", [1, 2, 7])
def test_a_checkpoint_can_be_copied_by_any_number_of_processes(
    small: tuple[State, DirectoryPlace], tmp_path: Path, world: int
) -> None:
    _, place = small
    target = DirectoryPlace(tmp_path / "target")
    reader = CheckpointReader(place, NAME)
    for rank in range(world):
        copy_share(reader, target, rank, world)
    assert target.commit(NAME, place.manifest(NAME))
    CheckpointReader(target, NAME).verify()
    assert target.manifest(NAME) == place.manifest(NAME)


def test_what_is_damaged_is_not_copied(small: tuple[State, DirectoryPlace], tmp_path: Path) -> None:
    _, place = small
    shard = Path(place.where(NAME)) / "mllm-00001-000.safetensors"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(BrokenCheckpointError, match=shard.name):
        copy_share(CheckpointReader(place, NAME), DirectoryPlace(tmp_path / "target"), 0, 1)


def test_kinds_are_those_of_every_shard(small: tuple[State, DirectoryPlace]) -> None:
    _, place = small
    reader = CheckpointReader(place, NAME)
    assert reader.kinds("mllm") == {"master", "exp_avg", "exp_avg_sq"}
    reader.manifest.shards[0].kinds.remove("exp_avg")
    assert reader.kinds("mllm") == {"master", "exp_avg_sq"}
    assert reader.kinds("nothing") == set()
