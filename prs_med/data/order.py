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


@lru_cache(maxsize=2)
def _permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def sample_at(position: int, samples: int, seed: int) -> int:
    """Index of the sample at ``position`` of the endless sequence."""
    epoch, offset = divmod(position, samples)
    return int(_permutation(samples, seed, epoch)[offset])


@dataclass(frozen=True)
class Rank:
    """This process among all of them."""

    index: int
    world: int


def training_batches(
    samples: int, seed: int, micro_batch: int, accumulation: int, rank: Rank, first_step: int = 0
) -> Iterator[list[int]]:
    """Endless micro-batches (lists of sample indices) of one process, from global batch
    ``first_step`` on; ``accumulation`` of them belong to each global batch."""
    global_batch = micro_batch * accumulation * rank.world
    step = first_step
    while True:
        for part in range(accumulation):
            start = step * global_batch + (part * rank.world + rank.index) * micro_batch
            yield [sample_at(start + i, samples, seed) for i in range(micro_batch)]
        step += 1


def evaluation_batches(samples: int, micro_batch: int, rank: Rank) -> list[list[int | None]]:
    """Micro-batches of one process that together cover every sample exactly once.

    Every process gets the same number of batches, all of them full, so that collectives inside
    the model line up; ``None`` marks filling that must not count.
    """
    per_step = micro_batch * rank.world
    batches: list[list[int | None]] = []
    for start in range(0, samples, per_step):
        mine = range(start + rank.index, start + per_step, rank.world)
        batches.append([i if i < samples else None for i in mine])
    return batches
