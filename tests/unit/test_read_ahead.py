"""Reading ahead: what comes out, how much is held, and how often something is read."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.records import DataError
from prs_med.data.stream.read_ahead import ReadAhead
from prs_med.data.stream.stream_order import StreamOrder, Unit
from tests.patience import patience


class Source:
    """Row groups that are their own numbers."""

    def __init__(self, sizes: list[int], pause: float = 0.0, broken: int = -1) -> None:
        self._sizes = sizes
        self._pause = pause
        self._broken = broken
        self._lock = threading.Lock()
        self.reads: Counter[int] = Counter()

    def nbytes(self, group: int) -> int:
        return self._sizes[group]

    def read(self, group: int) -> int:
        with self._lock:
            self.reads[group] += 1
        time.sleep(self._pause)
        if group == self._broken:
            raise DataError(f"row group {group} is broken")
        return group


def reader(source: Source, units: list[Unit], memory: int, **options: int) -> ReadAhead:
    settings = {"threads": 3, "horizon": 50, **options}
    return ReadAhead(source, iter(units), memory=memory, **settings)


@settings(max_examples=60)
@given(
    groups=st.lists(st.integers(0, 7), min_size=1, max_size=120),
    sizes=st.lists(st.integers(1, 10), min_size=8, max_size=8),
    memory=st.integers(1, 60),
    horizon=st.integers(1, 80),
)
def test_units_come_in_order_and_memory_is_bounded(
    groups: list[int], sizes: list[int], memory: int, horizon: int
) -> None:
    units = [Unit(position, group, 0) for position, group in enumerate(groups)]
    ahead = reader(Source(sizes), units, memory, horizon=horizon)
    seen = []
    for row_group, unit in ahead:
        assert row_group == unit.group
        seen.append(unit)
        held = sum(sizes[group] for group in ahead._held)
        # A row group that is larger than the memory is held all the same, but alone.
        assert held == ahead._used
        assert held <= memory or list(ahead._held) == [unit.group]
    assert seen == units


def test_with_room_for_the_window_every_row_group_is_read_once_per_epoch() -> None:
    order = StreamOrder([20] * 64, 0, global_batch=16, window=16)
    units = [order.unit(position) for position in range(order.units)]
    source = Source([1] * 64)
    list(reader(source, units, memory=40, horizon=1000))
    assert set(source.reads.values()) == {1}


def test_a_dataset_that_fits_is_read_once_for_all_epochs() -> None:
    order = StreamOrder([5] * 6, 0, global_batch=4, window=8)
    units = [order.unit(position) for position in range(10 * order.units)]
    source = Source([1] * 6)
    list(reader(source, units, memory=6))
    assert source.reads == Counter(range(6))


def test_too_little_memory_reads_again_and_says_so_once(caplog) -> None:
    units = [Unit(position, position % 4, 0) for position in range(40)]
    source = Source([1] * 4)
    assert len(list(reader(source, units, memory=2))) == 40
    assert source.reads.total() > 4
    assert [r for r in caplog.messages if "--shuffle_window" in r] == caplog.messages[:1]


def test_reads_run_ahead_of_their_use() -> None:
    source = Source([1] * 6, pause=0.05)
    iterator = iter(reader(source, [Unit(n, n, 0) for n in range(6)], memory=6))
    next(iterator)
    deadline = time.monotonic() + patience(30)
    while source.reads.total() < 3:
        assert time.monotonic() < deadline, "nothing is read ahead"
        time.sleep(0.005)
    iterator.close()


def test_an_error_comes_where_its_row_group_is_needed_and_threads_end() -> None:
    before = threading.active_count()
    units = iter(reader(Source([1] * 4, broken=2), [Unit(n, n, 0) for n in range(4)], 4))
    assert [next(units)[1].group, next(units)[1].group] == [0, 1]
    with pytest.raises(DataError, match="row group 2 is broken"):
        next(units)
    assert threading.active_count() == before
