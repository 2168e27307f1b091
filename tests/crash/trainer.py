"""One process of a run that saves, may be killed at any time, and goes on when started again."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import BrokenCheckpointError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.mirror import Mirror
from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.ownership import Ownership, claim, last_attempt
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import Pruner, Retention
from prs_med.checkpoint.saver import Saver
from prs_med.storage.store import StorageError
from tests.crash.computation import Part
from tests.crash.crash_points import Crash, CrashPoints
from tests.crash.lockstep import Lockstep, PeerGoneError

FINISHED, FAILED, PEER_GONE = 0, 1, 3
RETENTION = Retention(keep_last=2, metric="val_dice", higher_is_better=True)
_SHARD_BYTES = 2000
_REPORT_SECONDS = 60.0
_UPLOAD_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What one process does."""

    folder: str
    """Where results and journals go."""
    places: list[str]
    """Where checkpoints go: a folder, S3, or a folder that is mirrored to S3."""
    rank: int
    world: int
    steps: int
    every: int
    group: str
    """A name that only the processes of this start share."""
    environment: dict[str, str] = field(default_factory=dict)
    crash: Crash | None = None


def main(plan: Plan) -> int:
    """Run to the end; the exit status."""
    os.environ.update(plan.environment)
    points = CrashPoints(plan.rank, plan.crash)
    try:
        _Run(plan, points).go()
    except PeerGoneError:
        return PEER_GONE
    except Exception:
        traceback.print_exc()
        return FAILED
    return FINISHED


class _Run:
    def __init__(self, plan: Plan, points: CrashPoints) -> None:
        self._plan = plan
        self._folder = Path(plan.folder)
        self._lockstep = Lockstep(plan.group, plan.rank, plan.world)
        points.peers += self._lockstep.exchange(os.getpid())
        self._points = points
        self._places = [open_place(uri, self._folder / ".staging") for uri in plan.places]
        self._owned: list[Ownership] = []
        self._part = Part(plan.rank, plan.world)

    def go(self) -> None:
        """Claim, resume, compute, save, and write down the result."""
        plan = self._plan
        self._attempt = self._lockstep.first(self._claim() if plan.rank == 0 else None)
        mirror = self._mirror()
        saver = Saver(
            self._places[0],
            plan.rank,
            plan.world,
            "run",
            may_commit=self._check,
            committed=self._committed(self._places[0]),
            shard_bytes=_SHARD_BYTES,
            report_seconds=_REPORT_SECONDS,
        )
        self._resume()
        if plan.rank == 0:
            for place in self._places:
                Pruner(place, RETENTION).clear_up()
        for step in range(self._part.step + 1, plan.steps + 1):
            self._part.advance()
            self._lockstep.exchange(step)
            if step % plan.every == 0 or step == plan.steps:
                self._wait(saver)
                saver.save(CheckpointName(self._attempt, step), self._part.snapshot())
        self._wait(saver)
        if mirror is not None:
            left = mirror.finish(_UPLOAD_SECONDS)
            assert not left, f"not mirrored: {left}"
        values = sorted(chain.from_iterable(self._lockstep.exchange(self._part.values())))
        counts = self._lockstep.exchange(dict(self._points.counts))
        if plan.rank == 0:
            for ownership in self._owned:
                ownership.release()
            (self._folder / "counts.json").write_text(json.dumps(counts))
            (self._folder / "result.json").write_text(json.dumps(values))

    def _wait(self, saver: Saver) -> None:
        outcome = saver.wait()
        assert outcome is None or not outcome.error, outcome

    def _claim(self) -> int:
        found = [last_attempt(place.store) for place in self._places]
        last = max((attempt.number for attempt in found if attempt), default=0)
        self._owned += [claim(place.store, "run", last, print) for place in self._places]
        return last + 1

    def _check(self) -> None:
        for ownership in self._owned:
            ownership.check()

    def _committed(self, place: Place):
        pruner = Pruner(place, RETENTION)

        def journal_and_prune(*_: CheckpointName) -> None:
            newest = place.checkpoints()[-1]
            with journal_of(self._folder, place).open("a") as journal:
                journal.write(f"{newest}\n")
            pruner.prune()

        return journal_and_prune

    def _mirror(self) -> Mirror | None:
        if len(self._places) == 1:
            return None
        local, remote = self._places
        assert isinstance(local, DirectoryPlace)
        return Mirror(
            local,
            remote,
            self._plan.rank,
            self._plan.world,
            self._attempt,
            may_commit=self._check,
            committed=self._committed(remote),
        )

    def _resume(self) -> None:
        chosen = self._lockstep.first(self._newest_good() if self._plan.rank == 0 else None)
        if chosen is not None:
            number, text = chosen
            name = CheckpointName.parse(text)
            assert name is not None
            self._part.restore(CheckpointReader(self._places[number], name))

    def _newest_good(self) -> tuple[int, str] | None:
        candidates = [
            (name, -number) for number, place in enumerate(self._places)
            for name in place.checkpoints()
        ]  # fmt: skip
        for name, negative in sorted(candidates, reverse=True):
            try:
                CheckpointReader(self._places[-negative], name).verify()
            except (BrokenCheckpointError, StorageError) as error:
                print(f"passed over: {error}")
                continue
            return -negative, str(name)
        return None


def journal_of(folder: Path, place: Place) -> Path:
    """Where a run notes each checkpoint of a place after it was committed."""
    return folder / f"committed-{'s3' if place.store.uri.startswith('s3:') else 'disk'}"
