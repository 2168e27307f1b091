"""The order of samples is a function; properties over sizes, ranks and splits."""

from __future__ import annotations

from itertools import islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from prs_med.data.order import (
    Rank,
    evaluation_batches,
    evenly_spread,
    sample_at,
    training_positions,
)

SIZES = st.integers(1, 60)
SEEDS = st.integers(0, 5)


@given(samples=SIZES, seed=SEEDS, epoch=st.integers(0, 4))
def test_each_sample_once_per_epoch(samples: int, seed: int, epoch: int) -> None:
    seen = [sample_at(epoch * samples + i, samples, seed) for i in range(samples)]
    assert sorted(seen) == list(range(samples))


@given(
    micro=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 4),
    first=st.integers(0, 9),
)
def test_global_batches_do_not_depend_on_the_split(
    micro: int, accumulation: int, world: int, first: int
) -> None:
    size = micro * accumulation * world
    expected = [list(range(step * size, (step + 1) * size)) for step in range(first, first + 3)]
    streams = [
        training_positions(micro, accumulation, Rank(rank, world), first) for rank in range(world)
    ]
    for step in range(3):
        parts = [batch for stream in streams for batch in islice(stream, accumulation)]
        assert all(len(part) == micro for part in parts)
        assert sorted(i for part in parts for i in part) == expected[step]


def test_each_rank_takes_its_turn_within_every_micro_batch_of_the_global_one() -> None:
    # A run goes on under another release: no rank may then take what another has taken.
    def taken(rank: int) -> list[list[int]]:
        return list(islice(training_positions(2, 2, Rank(rank, 3), 1), 3))

    assert taken(0) == [[12, 13], [18, 19], [24, 25]]
    assert taken(2) == [[16, 17], [22, 23], [28, 29]]
    assert next(training_positions(2, 2, Rank(1, 3))) == [2, 3]


def test_the_order_is_the_one_that_earlier_releases_had() -> None:
    # Runs go on under another release: these numbers must not change.
    assert [sample_at(16 + i, 8, 5) for i in range(8)] == [4, 2, 6, 7, 5, 0, 1, 3]


def test_another_seed_and_epoch_is_another_order() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return [sample_at(number * 50 + i, 50, seed) for i in range(50)]

    assert epoch(0, 0) != epoch(1, 0)
    assert epoch(0, 0) != epoch(0, 1)


@given(samples=st.integers(0, 50), micro=st.integers(1, 4), world=st.integers(1, 4))
def test_evaluation_counts_every_sample_once(samples: int, micro: int, world: int) -> None:
    per_rank = [evaluation_batches(samples, micro, Rank(rank, world)) for rank in range(world)]
    # The same number of batches, all full, on every rank: collectives line up.
    assert len({len(batches) for batches in per_rank}) == 1
    assert all(len(batch) == micro for batches in per_rank for batch in batches)
    counted = [i for batches in per_rank for batch in batches for i in batch if i is not None]
    assert sorted(counted) == list(range(samples))


def test_each_rank_evaluates_neighbours_and_fills_up_at_the_end() -> None:
    assert evaluation_batches(7, 2, Rank(0, 2)) == [[0, 1], [2, 3]]
    assert evaluation_batches(7, 2, Rank(1, 2)) == [[4, 5], [6, None]]
    assert evaluation_batches(8, 2, Rank(1, 2)) == [[4, 5], [6, 7]]
    assert evaluation_batches(0, 2, Rank(1, 2)) == []


@given(count=st.integers(0, 40), samples=SIZES)
def test_chosen_samples_lie_at_equal_distances(count: int, samples: int) -> None:
    chosen = evenly_spread(count, samples)
    assert len(chosen) == min(count, samples)
    assert set(chosen) <= set(range(samples))
    assert not chosen or chosen[0] == 0
    steps = {after - before for before, after in pairwise(chosen)}
    assert all(step > 0 for step in steps)
    assert not steps or max(steps) - min(steps) <= 1
