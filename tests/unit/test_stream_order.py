"""The training sequence over row groups: a function, whole in each epoch, alike for all ranks."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prs_med.data.order import Rank, permutation
from prs_med.data.stream import stream_order
from prs_med.data.stream.stream_order import StreamOrder

GROUPS = st.lists(st.integers(1, 9), min_size=1, max_size=12)
WINDOWS = st.integers(1, 20)


def units(order: StreamOrder, first: int, count: int) -> list[tuple[int, int]]:
    found = (order.unit(position) for position in range(first, first + count))
    return [(unit.group, unit.number) for unit in found]


@given(sizes=GROUPS, batch=st.integers(1, 24), window=WINDOWS, epoch=st.integers(0, 3))
def test_every_unit_once_per_epoch(sizes: list[int], batch: int, window: int, epoch: int) -> None:
    order = StreamOrder(sizes, 3, batch, window)
    everything = [(group, number) for group, size in enumerate(sizes) for number in range(size)]
    assert order.units == len(everything)
    assert sorted(units(order, epoch * order.units, order.units)) == everything


@given(
    sizes=GROUPS,
    each=st.integers(1, 6),
    worlds=st.lists(st.integers(1, 6), min_size=2, max_size=3, unique=True),
    window=WINDOWS,
    first=st.integers(0, 40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_global_batches_are_the_same_for_any_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    each: int,
    worlds: list[int],
    window: int,
    first: int,
) -> None:
    size = each * int(np.lcm.reduce(worlds))
    alone = StreamOrder(sizes, 1, size, window)
    # So few that three steps are not always found out at once.
    monkeypatch.setattr(stream_order, "_UNITS_AT_ONCE", 32)
    expected = [alone.unit(position) for position in range(first * size, (first + 3) * size)]
    for world in worlds:
        order = StreamOrder(sizes, 1, size, window)
        parts = [order.sequence(first, Rank(rank, world)) for rank in range(world)]
        for step in range(3):
            taken = [unit for part in parts for unit in islice(part, size // world)]
            assert sorted(taken) == expected[step * size : (step + 1) * size]


@pytest.mark.parametrize("batch", [32, 64])
def test_ranks_that_divide_the_streams_share_no_row_group(batch: int) -> None:
    order = StreamOrder([10] * 64, 0, global_batch=batch, window=32)
    assert order.streams == 32
    for world in (2, 4, 8):
        steps = order.units // batch
        groups = [
            {unit.group for step in range(steps) for unit in order.part(step, Rank(rank, world))}
            for rank in range(world)
        ]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 64


def test_a_rank_reads_from_no_more_row_groups_at_a_time_than_the_window() -> None:
    order = StreamOrder([50] * 200, 0, global_batch=16, window=24)
    for step in range(0, 600, 100):
        recent = [unit.group for k in range(step, step + 10) for unit in order.batch(k)]
        assert len(set(recent)) <= 2 * 24


@pytest.mark.parametrize(("window", "streams"), [(1, 1), (2, 2), (5, 3), (6, 6), (20, 6)])
def test_there_are_as_many_streams_as_divide_the_batch_and_fit_the_window(
    window: int, streams: int
) -> None:
    assert StreamOrder([4] * 9, 0, 6, window).streams == streams


def test_parts_are_the_global_batch_cut_in_order() -> None:
    order = StreamOrder([7, 3, 9, 4], 2, global_batch=12, window=5)
    for step in (0, 1, 9):
        parts = [order.part(step, Rank(rank, 3)) for rank in range(3)]
        assert [len(part) for part in parts] == [4, 4, 4]
        assert [unit for part in parts for unit in part] == order.batch(step)


@pytest.mark.parametrize("batch", [4, 600])
def test_the_sequence_of_a_rank_is_its_parts_one_behind_the_other(batch: int) -> None:
    # Longer than what is found out at once, for small and for large batches.
    order = StreamOrder([30] * 20, 3, batch, window=8)
    steps = 1500 // batch
    expected = [unit for step in range(5, 5 + steps) for unit in order.part(step, Rank(1, 2))]
    assert list(islice(order.sequence(5, Rank(1, 2)), len(expected))) == expected


def test_the_reach_is_a_block_of_each_of_a_ranks_streams() -> None:
    order = StreamOrder([3, 7, 5], 0, global_batch=4, window=9)
    # Four streams, of which each shuffles two row groups at a time, of up to seven units.
    assert [order.reach(ranks) for ranks in (1, 2, 3, 4)] == [56, 28, 28, 14]


def test_another_seed_window_or_epoch_is_another_order() -> None:
    def epoch(number: int = 0, seed: int = 0, window: int = 8) -> list[tuple[int, int]]:
        return units(StreamOrder([7] * 20, seed, 8, window), number * 140, 140)

    orders = [epoch(), epoch(number=1), epoch(seed=1), epoch(window=4)]
    assert all(a != b for n, a in enumerate(orders) for b in orders[n + 1 :])


def test_the_order_is_the_one_that_earlier_releases_had() -> None:
    # Runs go on under another release: these numbers must not change.
    assert permutation(8, 5, 2).tolist() == [4, 2, 6, 7, 5, 0, 1, 3]
    order = StreamOrder([3, 2, 4], 7, global_batch=4, window=2)
    assert units(order, 9, 9) == [
        (1, 1), (2, 3), (1, 0), (0, 2), (2, 2), (0, 1), (2, 1), (0, 0), (2, 0)
    ]  # fmt: skip


def test_any_position_is_found_at_once() -> None:
    order = StreamOrder([40] * 1000, 0, 64, 128)
    far = 10**12 + 17
    assert order.unit(far) == StreamOrder([40] * 1000, 0, 64, 128).unit(far)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="16 cannot be divided by 3"):
        StreamOrder([4], 0, 16, 1).part(0, Rank(0, 3))
