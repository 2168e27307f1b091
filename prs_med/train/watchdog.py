"""Ends a run in which a process hangs, after saying which one and where it stands.

Without it, all other processes wait for the one that hangs until somebody looks, or until a timeout
of the communication library, whose message names none. Each process watches itself: training notes
what it begins, and a thread compares the time. When a process has stood at one point for too long
it tells the others through the store that PyTorch keeps for its processes; normally all do, since
all wait for one. The one that is furthest behind is the one that hangs. A process that says nothing
is stopped, or gone, or stuck in code that does not let its Python threads run.

A process that waits for storage, which it does for a limited time, does not hang, and neither do
those that wait for it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch.distributed as dist

from prs_med.data.order import Rank
from prs_med.storage.retry import waits_for_storage
from prs_med.train.heartbeat import PHASES, Heartbeat, Phase

HUNG = 76
"""Exit status of a run in which a process hung."""
_KEY = "prs_med/hung"
_WAITS = "prs_med/waits_for_storage"
_STACK_CHARACTERS = 6000
_logger = logging.getLogger("prs_med")


@dataclass(frozen=True)
class Report:
    """What a process says when it has stood still for too long."""

    step: int
    phase: Phase
    seconds: float
    """How long it has stood there."""
    host: str
    process: int
    stack: str

    def line(self, rank: int) -> str:
        """Who and where, in one line."""
        return (
            f"rank {rank} ({self.host}, process {self.process}) is {self.phase} after step "
            f"{self.step}, for {self.seconds:.0f} s"
        )


def diagnosis(reports: Mapping[int, Report], world: int) -> str:
    """Which process hangs, and where, in words.

    Args:
        reports: by rank, of those that said something.
        world: number of processes.
    """
    silent = [rank for rank in range(world) if rank not in reports]
    if silent:
        names = ", ".join(f"rank {rank}" for rank in silent)
        lines = [
            f"{names} gives no sign: stopped, gone, or stuck outside Python; the others wait",
            *(reports[rank].line(rank) for rank in sorted(reports)[:3]),
        ]
        return "\n".join(lines)
    behind = min(_order(report) for report in reports.values())
    hung = [rank for rank in sorted(reports) if _order(reports[rank]) == behind]
    lines = [reports[rank].line(rank) for rank in hung[:3]]
    if len(hung) == world > 1:
        lines.insert(0, "all processes stand at the same point: the network or storage may hang")
    elif len(hung) < world:
        lines.append(f"the other {world - len(hung)} wait for it further on")
    return "\n".join([*lines, "It stands here, the newest call last:", reports[hung[0]].stack])


def _order(report: Report) -> tuple[int, int]:
    return report.step, PHASES.index(report.phase)


class Watchdog:
    """Watches one process while in its context."""

    def __init__(self, heartbeat: Heartbeat, rank: Rank, limit: float) -> None:
        """
        Args:
            heartbeat: where training notes what it begins.
            rank: this process.
            limit: seconds at one point after which the run ends; 0 watches nothing.
        """
        self._heartbeat = heartbeat
        self._rank = rank
        self._limit = limit
        self._poll = max(0.2, min(5.0, limit / 10))
        self._grace = max(2.0, min(60.0, limit / 4))
        """The processes noticed at different times."""
        self._excused = 0.0
        """When a process was last known to wait for storage."""
        self._waits_seen = 0
        self._main = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._limit:
            self._heartbeat.enter("waiting for data", self._heartbeat.place.step)
            self._thread.start()
            self._guard()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._limit:
            faulthandler.cancel_dump_traceback_later()
            self._thread.join()

    def _guard(self) -> None:
        """Have the interpreter itself end the process where its threads cannot run, not even this
        one: code of a library that keeps Python's lock."""
        faulthandler.dump_traceback_later(2 * self._limit + 2 * self._grace, exit=True)

    def _watch(self) -> None:
        guarded = time.monotonic()
        while not self._ended.wait(self._poll):
            now = time.monotonic()
            if waits_for_storage():
                self._excused = now
                _store().add(_WAITS, 1)
            since = max(self._heartbeat.place.since, self._excused)
            if now - since >= self._limit and not self._another_waits(now):
                self._end()
            if now - guarded > self._limit / 4:
                self._guard()
                guarded = now

    def _another_waits(self, now: float) -> bool:
        """Whether a process has waited for storage since this was asked last."""
        seen, self._waits_seen = self._waits_seen, _store().add(_WAITS, 0)
        if seen == self._waits_seen:
            return False
        self._excused = now
        return True

    def _end(self) -> None:
        """Tell the others, say what was found, and end this process."""
        try:
            reports = self._exchange()
            if self._rank.index == min(reports):
                text = diagnosis(reports, self._rank.world)
                _logger.error("hung for %.0f s (--hang_timeout): %s", self._limit, text)
            else:
                # The launcher ends all as soon as one has ended.
                time.sleep(self._poll + 1)
        except Exception:
            _logger.exception("%s", self._report().line(self._rank.index))
        finally:
            sys.stderr.flush()
            # The main thread hangs, so nothing that waits for it may run.
            os._exit(HUNG)

    def _exchange(self) -> dict[int, Report]:
        """The reports of the processes that have one within the time of grace."""
        store = _store()
        keys = [f"{_KEY}/{rank}" for rank in range(self._rank.world)]
        store.set(keys[self._rank.index], json.dumps(vars(self._report())))
        until = time.monotonic() + self._grace
        while time.monotonic() < until and not store.check(keys):
            time.sleep(self._poll)
        return {
            rank: Report(**json.loads(store.get(key)))
            for rank, key in enumerate(keys)
            if store.check([key])
        }

    def _report(self) -> Report:
        place = self._heartbeat.place
        frame = sys._current_frames().get(self._main)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        return Report(
            step=place.step,
            phase=place.phase,
            seconds=time.monotonic() - place.since,
            host=socket.gethostname(),
            process=os.getpid(),
            stack=stack[-_STACK_CHARACTERS:],
        )


def _store() -> Any:
    """What PyTorch keeps for its processes."""
    return dist.distributed_c10d._get_default_store()
