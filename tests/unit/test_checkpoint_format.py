"""What any number of processes write, any other number reads, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import BrokenCheckpointError, UnfittingCheckpointError
from prs_med.checkpoint.manifest import BLOCK, Parameter
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.snapshot import Fragment
from tests.crash.cutting import stretch, zero2, zero3
from tests.unit.checkpoint_states import (
    KINDS,
    NAME,
    Further,
    HeldPlace,
    State,
    load,
    save,
    snapshots,
)

SHAPES = st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=6)
Cuts = dict[str, list[list[Fragment]]]


@st.composite
def cut(draw: st.DrawFn, parameters: list[Parameter], world: int) -> list[list[Fragment]]:
    """In one of the ways of ZeRO, or with no rule at all."""
    way = draw(st.sampled_from((zero2, zero3, None)))
    if way is not None:
        return way(parameters, world)
    count = sum(p.numel for p in parameters)
    ends = sorted({count, *draw(st.lists(st.integers(0, count), max_size=8))})
    pieces = [
        fragment
        for start, end in zip([0, *ends], ends, strict=False)
        for fragment in stretch(parameters, start, end)
    ]
    owned: list[list[Fragment]] = [[] for _ in range(world)]
    for piece in draw(st.permutations(pieces)):
        owned[draw(st.integers(0, world - 1))].append(piece)
    return owned


@st.composite
def cases(draw: st.DrawFn) -> tuple[State, Cuts, Cuts, int]:
    """A state, how it is cut where it is written and where it is read, and the size of shards."""
    shapes = {group: draw(SHAPES) for group in ("mllm", "segmentation")[: draw(st.integers(1, 2))]}
    state = State.random(shapes, draw(st.integers(0, 2**32)))
    writers, readers = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    written = {group: draw(cut(p, writers)) for group, p in state.parameters.items()}
    read = {group: draw(cut(p, readers)) for group, p in state.parameters.items()}
    return state, written, read, draw(st.sampled_from((1, 40, 300, 1 << 30)))


@given(cases())
@settings(max_examples=60)
def test_what_n_processes_write_m_others_read(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[State, Cuts, Cuts, int]
) -> None:
    state, written, read, shard_bytes = case
    place = DirectoryPlace(tmp_path_factory.mktemp("place"))
    assert not save(place, snapshots(state, written), shard_bytes=shard_bytes).error
    reader = CheckpointReader(place, NAME)
    reader.verify()
    load(reader, state, read)
    for group, parameters in state.parameters.items():
        for kind in KINDS:
            whole = reader.whole(group, kind)
            assert [list(whole[p.name].shape) for p in parameters] == [p.shape for p in parameters]
            joined = b"".join(whole[p.name].tobytes() for p in parameters)
            assert joined == state.vectors[group][kind].tobytes()


@given(cases())
@settings(max_examples=25)
def test_the_safetensors_library_reads_the_shards(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[State, Cuts, Cuts, int]
) -> None:
    state, written, _, shard_bytes = case
    place = DirectoryPlace(tmp_path_factory.mktemp("place"))
    save(place, snapshots(state, written), shard_bytes=shard_bytes)
    reader = CheckpointReader(place, NAME)
    for shard in reader.manifest.shards:
        fragments = [Fragment(*entry) for entry in shard.fragments]
        expected = state.part(shard.group, fragments)
        names = [[state.parameters[shard.group][f.parameter].name, f.start, f.length]
                 for f in fragments]  # fmt: skip
        with safe_open(Path(place.where(NAME)) / shard.file.name, "np") as opened:
            assert json.loads(opened.metadata()["fragments"]) == names
            assert set(opened.keys()) == {f"{shard.group}/{kind}" for kind in KINDS}
            for kind in KINDS:
                found = opened.get_tensor(f"{shard.group}/{kind}")
                assert found.tobytes() == expected.vectors[kind].tobytes()
    held = shard_bytes // (4 * len(KINDS))
    assert all(0 < shard.elements <= max(1, held) for shard in reader.manifest.shards)


def test_buffers_files_and_state_come_back_as_they_were(tmp_path: Path) -> None:
    state = State.random({"mllm": [[3]]})
    further = Further(
        buffers={
            "mean": np.array([1.5, -0.0, np.nan], np.float32),
            "count": np.array(3, np.int64),
            "empty": np.empty((0, 4), np.float64),
            "mask": np.arange(6, dtype=np.uint8).reshape(2, 3),
            "every_second": np.arange(10, dtype=np.int32)[::2],
        },
        files={"metrics.jsonl": b'{"step": 1}\n', "nothing": b""},
        state={"step": 7, "text": 'ü "quoted", "sha256":"not the end"}', "deep": {"a": [None]}},
    )
    place = DirectoryPlace(tmp_path)
    cuts = {"mllm": zero2(state.parameters["mllm"], 2)}
    assert not save(place, snapshots(state, cuts, further)).error
    reader = CheckpointReader(place, NAME)
    reader.verify()
    found = reader.buffers()
    assert found.keys() == further.buffers.keys()
    for name, expected in further.buffers.items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].tobytes() == expected.tobytes()
    assert {name: reader.file(name) for name in further.files} == further.files
    assert reader.file("another") is None
    assert reader.manifest.state == further.state
    with safe_open(Path(place.where(NAME)) / "buffers.safetensors", "np") as opened:
        assert opened.get_tensor("mask").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_each_process_reads_only_what_it_needs(tmp_path: Path) -> None:
    state = State.random({"mllm": [[1_500_000], [7, 300_000]]})
    parameters = state.parameters["mllm"]
    place = DirectoryPlace(tmp_path)
    save(place, snapshots(state, {"mllm": zero2(parameters, 2)}))
    total = sum(vector.nbytes for vector in state.vectors["mllm"].values())
    for way in (zero2, zero3):
        for fragments in way(parameters, 4):
            held = HeldPlace(place)
            load(held.reader(), state, {"mllm": [fragments]})
            # Each stretch of a vector begins and ends within a block, in at most two shards.
            stretches = len(KINDS) * (len(fragments) + 1)
            assert held.bytes_read <= total / 4 + 2 * BLOCK * stretches


def test_many_small_parameters_are_read_in_few_requests(tmp_path: Path) -> None:
    state = State.random({"mllm": [[50]] * 400})
    parameters = state.parameters["mllm"]
    place = DirectoryPlace(tmp_path)
    save(place, snapshots(state, {"mllm": zero2(parameters, 1)}))
    held = HeldPlace(place)
    load(held.reader(), state, {"mllm": zero3(parameters, 2)[:1]})
    assert held.bytes_read <= len(KINDS) * len(held.files["mllm-00000-000.safetensors"])


def test_a_missing_fragment_is_named_with_its_parameter(tmp_path: Path) -> None:
    state = State.random({"mllm": [[4], [6]]})
    place = DirectoryPlace(tmp_path)
    cuts = {"mllm": [[Fragment(0, 0, 4), Fragment(1, 0, 2)], [Fragment(1, 3, 3)]]}
    save(place, snapshots(state, cuts))
    reader = CheckpointReader(place, NAME)
    expected = r"step-00000007-01: element 2 of mllm\.layer1\.weight is missing"
    with pytest.raises(BrokenCheckpointError, match=expected):
        reader.verify()
    with pytest.raises(BrokenCheckpointError, match=expected):
        load(reader, state, {"mllm": zero2(state.parameters["mllm"], 1)})
    load(reader, state, {"mllm": [[Fragment(0, 1, 3), Fragment(1, 4, 2)]]})


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ({"b": [3]}, "does not hold b$"),
        ({"a": [2, 3], "b": [3], "c": []}, "does not hold b and 1 more"),
        ({}, "holds, and this model does not train, a$"),
        ({"a": [3, 2]}, r"a has the shape \(2, 3\), here it is \(3, 2\)"),
    ],
)
def test_other_parameters_are_refused_by_name(
    tmp_path: Path, ours: dict[str, list[int]], says: str
) -> None:
    state = State.random({"mllm": [[2, 3]]})
    state.parameters["mllm"] = [Parameter("a", [2, 3])]
    place = DirectoryPlace(tmp_path)
    save(place, snapshots(state, {"mllm": zero2(state.parameters["mllm"], 1)}))
    reader = CheckpointReader(place, NAME)
    other = State.random({"mllm": list(ours.values())})
    other.parameters["mllm"] = [Parameter(name, shape) for name, shape in ours.items()]
    cuts = {"mllm": zero2(other.parameters["mllm"], 1)}
    with pytest.raises(UnfittingCheckpointError, match=f"step-00000007-01: {says}"):
        load(reader, other, cuts)
    with pytest.raises(UnfittingCheckpointError, match="nothing of 'segmentation' was trained"):
        reader.check_parameters("segmentation", other.part("mllm", []))


def test_parameters_in_another_order_are_found_by_name(tmp_path: Path) -> None:
    state = State.random({"mllm": [[4], [2, 3]]})
    place = DirectoryPlace(tmp_path)
    save(place, snapshots(state, {"mllm": zero2(state.parameters["mllm"], 2)}))
    turned = State(
        {"mllm": state.parameters["mllm"][::-1]},
        {"mllm": {k: np.concatenate([v[4:], v[:4]]) for k, v in state.vectors["mllm"].items()}},
    )
    load(CheckpointReader(place, NAME), turned, {"mllm": zero3(turned.parameters["mllm"], 3)})
