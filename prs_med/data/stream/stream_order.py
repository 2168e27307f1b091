"""Which sample of a sharded dataset stands where in the training sequence.

A pure function of the sizes of the row groups, the seed, the global batch size B and the shuffle
window, so it is the same for any number of processes and of workers, and begins anywhere at once.

Each epoch, the row groups are put in a random order, one behind the other. The samples in this row
are cut into V streams of equal length; V divides B, and position p of the epoch belongs to stream
p mod V. Within a stream, the samples of every few consecutive row groups (a block) are shuffled. So
about ``window`` row groups are being read from at any time, V of them at least, and a process that
takes whole streams of each global batch reads only these streams' row groups.

The names: a *unit* is what is counted and ordered, a question or an image with all its questions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prs_med.data.order import Rank, permutation

_BLOCKS_KEPT = 4096

_UNITS_AT_ONCE = 512
"""About how many units a process finds out at once, which costs little more than for one."""


class Unit(NamedTuple):
    """Where a unit stands in the sequence, and where it is stored."""

    position: int
    """In the endless sequence, from 0 on."""
    group: int
    """Row group, counted over all shards."""
    number: int
    """Within the row group."""


@dataclass(frozen=True)
class _Epoch:
    """The row groups of one epoch."""

    groups: np.ndarray
    """(G,) the row groups in their order."""
    ends: np.ndarray
    """(G + 1,) how many units lie before each of them, and in all."""

    def group_at(self, places: np.ndarray) -> np.ndarray:
        """Which row group of the order holds each of some places of the row."""
        return np.searchsorted(self.ends, places, "right") - 1


class StreamOrder:
    """The endless training sequence over a dataset."""

    def __init__(self, group_sizes: list[int], seed: int, global_batch: int, window: int) -> None:
        """
        Args:
            group_sizes: units in each row group, over all shards; none is 0.
            seed: another seed is another order.
            global_batch: B, units in a global batch.
            window: row groups that are mixed at a time, over all streams.
        """
        self._sizes = np.asarray(group_sizes, dtype=np.int64)
        self._seed = seed
        self._global_batch = global_batch
        self.units = int(self._sizes.sum())
        """Units in an epoch."""
        self.streams = max(v for v in range(1, window + 1) if global_batch % v == 0)
        """V, the largest divisor of B that is not above the window."""
        self._depth = max(1, window // self.streams)
        each, more = divmod(self.units, self.streams)
        numbers = np.arange(self.streams + 1)
        self._starts = numbers * each + np.minimum(numbers, more)
        """(V + 1,) units that lie before each stream; their lengths differ by one at most."""
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int, int], tuple[int, np.ndarray]] = OrderedDict()

    def unit(self, position: int) -> Unit:
        """The unit at a position of the endless sequence."""
        return self._units(np.array([position]))[0]

    def batch(self, step: int) -> list[Unit]:
        """Global batch ``step``, sorted so that neighbours come from one stream."""
        return self._units(self._positions(step, 1).ravel())

    def _positions(self, first_step: int, steps: int) -> np.ndarray:
        """(steps, B) the positions of some global batches in the order of their units."""
        count = steps * self._global_batch
        numbers = first_step * self._global_batch + np.arange(count)
        positions = numbers.reshape(steps, self._global_batch)
        epochs, offsets = np.divmod(positions, self.units)
        order = np.lexsort((positions, offsets % self.streams, epochs), axis=-1)
        return np.take_along_axis(positions, order, axis=-1)

    def _units(self, positions: np.ndarray) -> list[Unit]:
        """The units at some positions, (N,) int64."""
        epochs, offsets = np.divmod(positions, self.units)
        units: list[Unit] = []
        for number in dict.fromkeys(epochs.tolist()):
            chosen = epochs == number
            units += self._units_of_epoch(number, offsets[chosen], positions[chosen])
        return units

    def _units_of_epoch(
        self, number: int, offsets: np.ndarray, positions: np.ndarray
    ) -> list[Unit]:
        epoch = self._epoch(number)
        along, streams = np.divmod(offsets, self.streams)
        first, last = self._starts[streams], self._starts[streams + 1]
        first_group = epoch.group_at(first)
        blocks = (epoch.group_at(first + along) - first_group) // self._depth
        places = first + along
        # Block by block: one by one, finding out the order would cost as much as reading.
        by_block = np.lexsort((blocks, streams))
        changes = np.diff(streams[by_block]).astype(bool) | np.diff(blocks[by_block]).astype(bool)
        for members in np.split(by_block, np.flatnonzero(changes) + 1):
            key = (int(array[members[0]]) for array in (streams, blocks, first_group, first, last))
            start, shuffled = self._block(number, epoch, *key)
            places[members] = start + shuffled[places[members] - start]
        groups = epoch.group_at(places)
        numbers = places - epoch.ends[groups]
        columns = (positions.tolist(), epoch.groups[groups].tolist(), numbers.tolist())
        return list(map(Unit._make, zip(*columns, strict=True)))

    def part(self, step: int, rank: Rank) -> list[Unit]:
        """What one process takes of a global batch: B / world units, from as few streams as can be.

        Raises:
            ValueError: B is no multiple of the number of processes.
        """
        return self._parts(step, 1, rank)

    def _parts(self, first_step: int, steps: int, rank: Rank) -> list[Unit]:
        """:meth:`part` of some global batches, one behind the other."""
        if self._global_batch % rank.world:
            raise ValueError(
                f"a global batch of {self._global_batch} cannot be divided by {rank.world}"
            )
        each = self._global_batch // rank.world
        mine = slice(rank.index * each, (rank.index + 1) * each)
        return self._units(self._positions(first_step, steps)[:, mine].ravel())

    def sequence(self, first_step: int, rank: Rank) -> Iterator[Unit]:
        """The units of one process from global batch ``first_step`` on, without end."""
        steps = max(1, _UNITS_AT_ONCE * rank.world // self._global_batch)
        step = first_step
        while True:
            yield from self._parts(step, steps, rank)
            step += steps

    def reach(self, rank_count: int) -> int:
        """About how many units a process goes through while it reads one block of each of its
        streams."""
        streams = -(-self.streams // rank_count)
        return int(streams * self._depth * self._sizes.max())

    def _epoch(self, number: int) -> _Epoch:
        found = self._epochs.get(number)
        if found is None:
            groups = permutation(len(self._sizes), self._seed, number)
            ends = np.concatenate([[0], np.cumsum(self._sizes[groups])])
            found = self._epochs[number] = _Epoch(groups, ends)
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return found

    def _block(
        self,
        number: int,
        epoch: _Epoch,
        stream: int,
        block: int,
        first_group: int,
        first: int,
        last: int,
    ) -> tuple[int, np.ndarray]:
        """Where a block starts in the row, and the order of its units."""
        key = (number, stream, block)
        found = self._blocks.get(key)
        if found is None:
            at = first_group + block * self._depth
            start = max(first, int(epoch.ends[at]))
            end = min(last, int(epoch.ends[min(at + self._depth, len(self._sizes))]))
            found = start, permutation(end - start, self._seed, *key, 1)
            self._blocks[key] = found
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found
