"""The order of samples: a pure function of seed, epoch and number of samples, without state.

The training sequence is endless: epoch after epoch, each sample once per epoch. Global batch k is
the next B samples of it, whatever the number of processes; processes differ only in which part of
each global batch is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Philox, SeedSequence


def permutation(size: int, *key: int) -> np.ndarray:
    """The numbers below ``size`` in an order that follows from ``key`` (int64).

    Raw numbers are sorted rather than numpy's own shuffling used: numpy promises that seeding and
    bit generators stay as they are, but not what is built on them. A run must be able to go on in
    the same order under another release.
    """
    raw = Philox(SeedSequence(key)).random_raw(size)
    return np.argsort(raw, kind="stable")


@lru_cache(maxsize=2)
def _permutation_of_epoch(samples: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(samples, seed, epoch)


def sample_at(position: int, samples: int, seed: int) -> int:
    """Index of the sample at ``position`` of the endless sequence."""
    epoch, offset = divmod(position, samples)
    return int(_permutation_of_epoch(samples, seed, epoch)[offset])


@dataclass(frozen=True)
class Rank:
    """This process among all of them."""

    index: int
    world: int


def training_positions(
    micro_batch: int, accumulation: int, rank: Rank, first_step: int = 0
) -> Iterator[list[int]]:
    """Endless micro-batches of one process, as positions of the sequence, from global batch
    ``first_step`` on; ``accumulation`` of them belong to each global batch."""
    global_batch = micro_batch * accumulation * rank.world
    step = first_step
    while True:
        for part in range(accumulation):
            start = step * global_batch + (part * rank.world + rank.index) * micro_batch
            yield list(range(start, start + micro_batch))
        step += 1


def evaluation_batches(samples: int, micro_batch: int, rank: Rank) -> list[list[int | None]]:
    """Micro-batches of one process that together cover every sample exactly once.

    A process has neighbouring samples, which are read together. Every process gets the same number
    of batches, all of them full, so that collectives inside the model line up; ``None`` marks
    filling that must not count.
    """
    each = -(-samples // (micro_batch * rank.world)) * micro_batch
    mine = range(rank.index * each, (rank.index + 1) * each)
    numbers = [number if number < samples else None for number in mine]
    return [numbers[start : start + micro_batch] for start in range(0, each, micro_batch)]


def evenly_spread(count: int, samples: int) -> list[int]:
    """Numbers of ``count`` samples, or of all if there are fewer, at equal distances."""
    count = min(count, samples)
    return [number * samples // count for number in range(count)]
