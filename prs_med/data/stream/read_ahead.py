"""Row groups read in the background, in the order in which they will be needed, within a bound.

What comes next is known, so memory is used as well as it can be: when it is full, the row group
whose next use is furthest away makes room, and none makes room for one that is needed later than
itself (Belady's rule). Row groups of a small dataset thus stay for good, and no setting of the
shuffle window needs more memory than the bound; a window that does not fit costs repeated reads.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from prs_med.data.dataset.row_groups import RowGroup
from prs_med.data.stream.stream_order import Unit

_STRIDE = 16
"""Units between two looks ahead; each look goes through all that is held."""

_GROWTH = 512
"""Units by which one look goes further; the first sample does not wait for the whole horizon."""

_logger = logging.getLogger("prs_med.data")


class Source(Protocol):
    """Where row groups come from."""

    def nbytes(self, group: int) -> int:
        """Memory that a row group takes up."""

    def read(self, group: int) -> RowGroup:
        """Read a row group; called from several threads."""


class ReadAhead:
    """Hands out units with the row groups that hold them."""

    def __init__(
        self, source: Source, units: Iterator[Unit], *, memory: int, threads: int, horizon: int
    ) -> None:
        """
        Args:
            source: where row groups come from.
            units: what will be asked for, in order.
            memory: bytes that row groups may take up, those being read included. If the row group
                that is needed now is larger, it alone is held.
            threads: row groups that are read at once.
            horizon: how many units ahead are looked at.
        """
        self._source = source
        self._units = units
        self._memory = memory
        self._threads = threads
        self._horizon = horizon
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
        self._ahead: deque[Unit] = deque()
        """The next units, in the order of their use, in which they are numbered."""
        self._count = 0
        """The number of the unit behind them."""
        self._uses: dict[int, deque[int]] = {}
        """For each row group, the numbers of the units ahead that are in it."""
        self._held: dict[int, Future[RowGroup]] = {}
        """Row groups that are in memory or being read."""
        self._arrived: dict[int, RowGroup] = {}
        """Those of them that were used already; asking a future takes a lock."""
        self._used = 0
        self._wanted: list[tuple[int, int]] = []
        """Heap of (number of the unit that needs it first, row group) of those not held."""
        self._warned = False

    def __iter__(self) -> Iterator[tuple[RowGroup, Unit]]:
        try:
            while self._ahead or self._look_ahead():
                number, unit = self._count - len(self._ahead), self._ahead[0]
                row_group = self._arrived.get(unit.group) or self._obtain(number, unit.group)
                yield row_group, unit
                self._ahead.popleft()
                self._uses[unit.group].popleft()
                if number % _STRIDE == 0:
                    self._look_ahead()
        finally:
            self.close()

    def close(self) -> None:
        """End the background threads; reads under way are waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look_ahead(self) -> bool:
        """Take in units up to the horizon, and start the reads that can be started; whether
        anything is left to hand out."""
        goal = min(self._horizon, len(self._ahead) + _GROWTH)
        while len(self._ahead) < goal:
            unit = next(self._units, None)
            if unit is None:
                break
            uses = self._uses.setdefault(unit.group, deque())
            if not uses and unit.group not in self._held:
                heapq.heappush(self._wanted, (self._count, unit.group))
            uses.append(self._count)
            self._ahead.append(unit)
            self._count += 1
        self._start_reads()
        return bool(self._ahead)

    def _start_reads(self) -> None:
        reading = sum(not future.done() for future in self._held.values()) if self._wanted else 0
        while self._wanted and reading < self._threads:
            number, group = self._wanted[0]
            uses = self._uses.get(group)
            # Otherwise it was read for a unit that could not wait, or was used up since.
            if group not in self._held and uses and uses[0] == number:
                if not self._make_room(self._source.nbytes(group), number):
                    return
                self._start(group)
                reading += 1
            heapq.heappop(self._wanted)

    def _start(self, group: int) -> None:
        self._used += self._source.nbytes(group)
        self._held[group] = self._pool.submit(self._source.read, group)

    def _make_room(self, needed: int, for_number: int) -> bool:
        """Let row groups go whose next use comes after ``for_number``, until ``needed`` bytes fit;
        whether they do."""
        while self._used + needed > self._memory:
            candidates = [g for g, future in self._held.items() if future.done()]
            victim = max(candidates, key=self._next_use, default=None)
            if victim is None or self._next_use(victim) <= for_number:
                return False
            self._let_go(victim)
        return True

    def _let_go(self, group: int) -> None:
        del self._held[group]
        self._arrived.pop(group, None)
        self._used -= self._source.nbytes(group)
        if self._uses[group]:
            self._warn_of_repetition()
            heapq.heappush(self._wanted, (self._uses[group][0], group))
        else:
            del self._uses[group]

    def _next_use(self, group: int) -> float:
        uses = self._uses[group]
        return uses[0] if uses else math.inf

    def _obtain(self, number: int, group: int) -> RowGroup:
        """The row group that is needed now."""
        while group not in self._held:
            if self._make_room(self._source.nbytes(group), number) or not self._held:
                self._start(group)
            else:
                # Memory is full of reads under way for later; they can be let go once they end.
                wait(list(self._held.values()))
        found = self._arrived[group] = self._held[group].result()
        return found

    def _warn_of_repetition(self) -> None:
        if not self._warned:
            _logger.warning(
                "--stream_memory_mb %d is less than the row groups that --shuffle_window mixes: "
                "some are read more than once an epoch; raise the one or lower the other",
                self._memory // 2**20,
            )
        self._warned = True
