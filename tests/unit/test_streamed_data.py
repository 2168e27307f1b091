"""Training data from shards: the right samples, the same for all, and resumable anywhere."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prs_med.batch import Batch
from prs_med.data.dataset.build import Layout, build
from prs_med.data.dataset.index import read_index
from prs_med.data.dataset.row_groups import read_footer
from prs_med.data.order import Rank
from prs_med.data.records import DataError
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.streamed_data import StreamedData, StreamOptions, batches_ahead
from prs_med.data.stream.training_stream import StreamState, TrainingStream
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.location import open_store
from prs_med.storage.open_file import OpenFile
from prs_med.storage.store import StorageAwayError
from tests.small_dataset import ask_again, build_small
from tests.unit.assembled import Inputs, read_inputs

ONE_RANK = Rank(0, 1)
OPTIONS = StreamOptions(
    seed=3,
    unit="question",
    shuffle_window=8,
    memory=2**22,
    num_workers=2,
    cache_dir=None,
    cache_bytes=0,
)


@pytest.fixture(scope="module")
def doubled(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data with two questions about every third image."""
    root = tmp_path_factory.mktemp("doubled") / "data"
    shutil.copytree(small.data, root)
    ask_again(root, "now", every=3)
    return root


@pytest.fixture(scope="module")
def inputs(small, doubled: Path) -> Inputs:
    return read_inputs(replace(small, data=doubled))


@pytest.fixture(scope="module")
def dataset(doubled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    build_small(doubled, DirectoryStore(folder), 70_000, 200_000)
    return folder


def copy_of(dataset: Path, folder: Path) -> Path:
    return Path(shutil.copytree(dataset, folder / "copy"))


def batches(
    dataset: Path,
    inputs: Inputs,
    options: StreamOptions = OPTIONS,
    *,
    rank: Rank = ONE_RANK,
    micro_batch: int = 4,
    accumulation: int = 1,
    first_step: int = 0,
    count: int,
) -> list[Batch]:
    data = StreamedData(str(dataset), options)
    stream = data.training_batches(
        inputs.preparation,
        inputs.collator,
        micro_batch=micro_batch,
        accumulation=accumulation,
        rank=rank,
        first_step=first_step,
    )
    with closing(stream):
        return list(islice(stream, count))


def samples_of(batch: Batch) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    index = range(len(batch)) if batch.image_index is None else batch.image_index.tolist()
    for number, image in enumerate(index):
        yield (
            batch.row_ids[number],
            batch.image_vlm[image],
            batch.image_seg[image],
            batch.mask[number],
        )


def same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch))
    )


def test_samples_are_those_of_the_files(dataset: Path, inputs: Inputs) -> None:
    train = [record for record in inputs.records if record.split == "train"]
    samples = inputs.dataset(train)
    expected = {record.row_id: samples[number] for number, record in enumerate(train)}
    found = batches(dataset, inputs, count=len(train) // 4)
    seen = Counter()
    for batch in found:
        for row_id, image_vlm, image_seg, mask in samples_of(batch):
            seen[row_id] += 1
            assert torch.equal(image_vlm, expected[row_id].image_vlm)
            assert torch.equal(image_seg, expected[row_id].image_seg)
            assert torch.equal(mask, expected[row_id].mask)
        whole = inputs.collator([expected[row_id] for row_id in batch.row_ids])
        assert same(batch, whole)
    assert set(seen.values()) == {1}


@pytest.mark.parametrize(
    "change",
    [
        {"num_workers": 0},
        {"num_workers": 5},
        {"memory": 1},
        {"cache_bytes": 2**30},
        {"cache_bytes": 150_000},
    ],
)
def test_how_it_is_read_changes_nothing(
    dataset: Path, inputs: Inputs, tmp_path: Path, change: dict[str, int]
) -> None:
    cache = tmp_path / "cache" if "cache_bytes" in change else None
    expected = batches(dataset, inputs, count=9)
    options = replace(OPTIONS, cache_dir=cache, **change)
    for _ in range(2):
        found = batches(dataset, inputs, options, count=9)
        assert all(map(same, found, expected))


def stream_of(dataset: Path, global_batch: int, window: int, unit: str) -> TrainingStream:
    store = DirectoryStore(dataset)
    opened = read_index(store)
    return TrainingStream(
        opened,
        RowGroupSource(store, opened.split("train")),
        seed=1,
        global_batch=global_batch,
        shuffle_window=window,
        unit=unit,
    )


def steps_of(
    stream: TrainingStream, world: int, memory: int, first_step: int, count: int, size: int
) -> list[list[tuple[int, tuple[str, ...]]]]:
    """The global batches that all processes make together."""
    parts = [stream.units_of(Rank(rank, world), first_step, memory) for rank in range(world)]
    steps = []
    for _ in range(count):
        units = [unit for part in parts for unit in islice(part, size // world)]
        steps.append(sorted((u.position, tuple(t.row_id for t in u.stored.targets)) for u in units))
    for part in parts:
        part.close()
    return steps


@settings(max_examples=25)
@given(
    stops=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=4, max_size=4),
    window=st.integers(1, 12),
    memory=st.sampled_from([1, 200_000, 2**30]),
    unit=st.sampled_from(["question", "image"]),
)
def test_it_goes_on_anywhere_at_any_world_size(
    dataset: Path, stops: list[int], worlds: list[int], window: int, memory: int, unit: str
) -> None:
    stream = stream_of(dataset, 12, window, unit)
    total = sum(stops)
    expected = steps_of(stream, 1, 2**30, 0, total, 12)
    found = []
    state = stream.state(0)
    for stop, world in zip(stops, worlds, strict=False):
        # Each leg is another run, which knows nothing but the saved state.
        again = stream_of(dataset, 12, window, unit)
        state = StreamState.parse(json.loads(json.dumps(state.dumps())))
        first = again.steps_of(state)
        found += steps_of(again, world, memory, first, stop, 12)
        state = again.state(first + stop)
    assert found == expected
    positions = [position for step in found for position, _ in step]
    assert positions == list(range(12 * total))


def test_every_question_once_per_epoch_also_by_image(dataset: Path) -> None:
    for unit, size in (("question", 4), ("image", 4)):
        stream = stream_of(dataset, size, 5, unit)
        steps = steps_of(stream, 1, 2**30, 0, -(-3 * stream.units // size), size)
        everything = [entry for step in steps for entry in step][: 3 * stream.units]
        for epoch in range(3):
            part = everything[epoch * stream.units : (epoch + 1) * stream.units]
            rows = [row for _, rows in part for row in rows]
            assert len(rows) == len(set(rows)) == 32


def test_the_state_is_small_and_refuses_another_sequence(dataset: Path, tmp_path: Path) -> None:
    stream = stream_of(dataset, 12, 8, "question")
    state = stream.state(10**9)
    assert len(json.dumps(state.dumps())) < 300
    for change, named in (
        ({"seed": 2}, "--seed: 2 there, 1 here"),
        ({"global_batch": 24}, "--batch_size .* 24 there, 12 here"),
        ({"shuffle_window": 9}, "--shuffle_window: 9 there, 8 here"),
        ({"unit": "image"}, "--batch_by_image.*: image there, question here"),
        ({"dataset": "0" * 64}, "--data.*: 0000"),
    ):
        with pytest.raises(DataError, match=named):
            stream.steps_of(replace(state, **change))
    with pytest.raises(DataError, match="not the state"):
        StreamState.parse({"seed": 1})


class CountingFile(OpenFile):
    """A file that counts what is read for the store that opened it."""

    def __init__(self, store: CountingStore, path: Path) -> None:
        super().__init__(path)
        self._store = store

    def read(self, offset: int, length: int) -> bytes:
        self._store.requests += 1
        self._store.nbytes += length
        return super().read(offset, length)


class CountingStore(DirectoryStore):
    """A folder that counts what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.requests = self.nbytes = 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        self.requests += 1
        self.nbytes += len(data)
        return data

    def open(self, name: str) -> OpenFile:
        return CountingFile(self, Path(self.where(name)))


def test_a_resume_reads_no_more_than_a_start(doubled: Path, tmp_path: Path) -> None:
    splits = split_records(read_annotations(doubled, None, "error").records, 0.1, 0)
    build(
        splits, doubled, DirectoryStore(tmp_path), Layout(1, 200_000, shuffle=True, seed=0),
        held_out="", skip_bad_rows=False, allow_duplicates=False, workers=2, show_progress=False,
    )  # fmt: skip

    def cost(first_step: int) -> tuple[int, int]:
        store = CountingStore(tmp_path)
        opened = read_index(store)
        source = RowGroupSource(store, opened.split("train"))
        stream = TrainingStream(
            opened, source, seed=0, global_batch=4, shuffle_window=4, unit="question"
        )
        units = stream.units_of(Rank(0, 1), first_step, memory=60_000)
        for unit in islice(units, 4):
            assert unit.stored.image
        units.close()
        return store.requests, store.nbytes

    at_start, at_90_percent, far = cost(0), cost(7), cost(10**7)
    for requests, nbytes in (at_90_percent, far):
        assert requests <= at_start[0] + 3
        assert nbytes <= 1.5 * at_start[1]


def test_batches_by_image_hold_all_questions_of_an_image(dataset: Path, inputs: Inputs) -> None:
    options = replace(OPTIONS, unit="image")
    found = batches(dataset, inputs, options, count=6)
    rows = Counter()
    for batch in found:
        assert len(batch.image_seg) == 4
        assert batch.weight.sum().item() == pytest.approx(4)
        rows.update(batch.row_ids)
        if batch.image_index is None:
            assert len(batch) == 4
            continue
        for image in range(4):
            of_image = batch.image_index == image
            assert batch.weight[of_image].tolist() == pytest.approx(
                [1 / int(of_image.sum())] * int(of_image.sum())
            )
    assert len(rows) == 32
    assert set(rows.values()) == {1}
    assert any(batch.image_index is not None for batch in found)


def test_validation_holds_every_sample_once(dataset: Path, inputs: Inputs) -> None:
    expected = sorted(record.row_id for record in inputs.records if record.split == "val")
    for world in (1, 2, 3, 16):
        counted: list[str] = []
        lengths = set()
        for rank in range(world):
            data = StreamedData(str(dataset), OPTIONS)
            found = list(
                data.validation_batches(
                    inputs.preparation, inputs.collator, micro_batch=3, rank=Rank(rank, world)
                )
            )
            lengths.add(len(found))
            assert all(len(batch) == 3 for batch in found)
            counted += [
                row
                for batch in found
                for row, weight in zip(batch.row_ids, batch.weight.tolist(), strict=True)
                if weight
            ]
        assert sorted(counted) == expected
        assert len(lengths) == 1


def test_validation_samples_by_their_numbers(dataset: Path, inputs: Inputs) -> None:
    data = StreamedData(str(dataset), OPTIONS)
    in_order = [
        (row, batch.mask[index])
        for batch in data.validation_batches(
            inputs.preparation, inputs.collator, micro_batch=1, rank=ONE_RANK
        )
        for index, row in enumerate(batch.row_ids)
    ]
    numbers = [0, 2, data.validation_samples - 1, 2]
    found = list(data.read_validation(inputs.preparation, numbers))
    records = {record.row_id: record for record in inputs.records}
    for sample, (row, mask) in zip(found, [in_order[n] for n in numbers], strict=True):
        assert sample.row_id == row
        assert (sample.question, sample.answer) == (records[row].question, records[row].answer)
        assert torch.equal(sample.mask, mask)


def flip_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("part", ["image", "mask", "text"])
def test_a_damaged_row_group_is_named_and_never_used(
    dataset: Path, inputs: Inputs, tmp_path: Path, part: str
) -> None:
    copied = copy_of(dataset, tmp_path)
    store = open_store(str(copied))
    shard = read_index(store).split("train").shards[1]
    number = len(shard.row_groups) - 1
    places = read_footer(store, shard).places(number)
    at = {
        "image": places.images[1].start + 99,
        "mask": places.masks[0].start + 9,
        "text": places.rest.end - 9,
    }[part]
    flip_byte(copied / shard.name, at)
    row = ", row 1" if part == "image" else ""
    message = rf"^[^ ]*{shard.name} row group {number}{row}: the checksum is wrong each of 3 times"
    with pytest.raises(DataError, match=message):
        batches(copied, inputs, count=8)
    again = replace(OPTIONS, cache_dir=tmp_path / "cache", cache_bytes=2**30)
    with pytest.raises(DataError, match=rf"^[^ ]*{shard.name} row group {number}: the checksum"):
        batches(copied, inputs, again, count=8)


def test_a_missing_shard_is_named(dataset: Path, inputs: Inputs, tmp_path: Path) -> None:
    copied = copy_of(dataset, tmp_path)
    shard = read_index(open_store(str(copied))).split("train").shards[0]
    (copied / shard.name).unlink()
    with pytest.raises(DataError, match=rf"{shard.name} (row group \d+|footer): .*no such file"):
        batches(copied, inputs, count=8)


def test_a_store_that_goes_away_is_no_mistake_in_the_data(
    dataset: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would end the run with a status that launchers take for final."""

    def away(store: DirectoryStore, name: str, *_: object) -> bytes:
        raise StorageAwayError(f"{store.where(name)}: 503, for 300 seconds")

    data = StreamedData(str(dataset), OPTIONS)
    monkeypatch.setattr(DirectoryStore, "read", away)
    stream = data.training_batches(
        inputs.preparation, inputs.collator, micro_batch=4, accumulation=1, rank=ONE_RANK
    )
    with closing(stream), pytest.raises(StorageAwayError, match="503, for 300 seconds"):
        next(stream)


def test_a_truncated_shard_is_named(dataset: Path, inputs: Inputs, tmp_path: Path) -> None:
    copied = copy_of(dataset, tmp_path)
    shard = read_index(open_store(str(copied))).split("train").shards[0]
    path = copied / shard.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{shard.name} footer: .*ends at byte"):
        batches(copied, inputs, count=8)


def test_texts_that_are_too_long_show_before_training(dataset: Path, inputs: Inputs) -> None:
    data = StreamedData(str(dataset), OPTIONS)
    longest = max(
        len(inputs.prompts.encode(r.question, r.answer, r.row_id).ids) for r in inputs.records
    )

    def problems(world: int) -> list[str]:
        found = []
        for index in range(world):
            try:
                data.check_lengths(inputs.prompts, Rank(index, world))
            except DataError as error:
                found.append(str(error))
        return found

    assert data.surely_fits(inputs.prompts)
    inputs.prompts._max_length = longest
    try:
        assert not data.surely_fits(inputs.prompts)
        assert problems(1) == problems(3) == []
        inputs.prompts._max_length = longest - 1
        for world in (1, 3):
            found = problems(world)
            assert found
            assert all(f"more than --max_length {longest - 1}" in text for text in found)
    finally:
        inputs.prompts._max_length = 2048


def test_random_changes_follow_from_seed_and_position_alone(dataset: Path, inputs: Inputs) -> None:
    from prs_med.data.augment import Augmentation

    changed = replace(inputs.preparation, augmentation=Augmentation(intensity=0.8, flip=0.5))

    class Changing(Inputs):
        preparation = changed  # type: ignore[assignment]

    changing = Changing(**{f.name: getattr(inputs, f.name) for f in fields(Inputs)})
    alone = batches(dataset, changing, count=16)
    assert all(map(same, alone, batches(dataset, changing, count=16)))
    plain = batches(dataset, inputs, count=16)
    assert not any(torch.equal(a.image_seg, b.image_seg) for a, b in zip(alone, plain, strict=True))
    for rank in range(2):
        options = replace(OPTIONS, num_workers=0)
        part = batches(
            dataset, changing, options, rank=Rank(rank, 2), micro_batch=2, first_step=5, count=3
        )
        known = {row: image for batch in alone[5:8] for row, _, image, _ in samples_of(batch)}
        for batch in part:
            for row, _, image, _ in samples_of(batch):
                assert torch.equal(image, known[row])


def test_the_loader_computes_in_its_own_threads_alone(dataset: Path) -> None:
    seen: set[int] = set()

    def look(_: object) -> list[object]:
        seen.add(torch.get_num_threads())
        return []

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        units = stream_of(dataset, 4, 8, "question").units_of(ONE_RANK, 0, 2**22)
        with closing(batches_ahead(units, look, look, 4, workers=2)) as made:
            assert next(made) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}
