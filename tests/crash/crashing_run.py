"""A run that is killed again and again, and looked at after each time."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from prs_med.checkpoint.manifest import MANIFEST, CheckpointName
from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.reader import CheckpointReader
from tests.crash.computation import check_is_of_one_step, expected_values, score
from tests.crash.crash_points import Crash
from tests.crash.processes import Processes, kill
from tests.crash.trainer import FINISHED, RETENTION, Plan, journal_of

RANDOM_TIME = "at a random time"
_PROCESSES = (2, 1, 2, 3)

Calls = dict[str, list[int]]
"""By crash point, how often each of two processes came by."""


@dataclass
class CrashingRun:
    """Starts of one run, until it has ended by itself."""

    processes: Processes
    plan: Plan
    rng: random.Random
    crashes: Counter[str] = field(default_factory=Counter)
    """How often it was killed where."""
    newest: dict[str, CheckpointName] = field(default_factory=dict)
    """By place, the newest complete checkpoint that was ever seen."""
    damaged: set[tuple[str, str]] = field(default_factory=set)

    def undisturbed_until_the_end(self) -> Calls:
        """Let it run on; the crash points that it came by."""
        codes = self.processes.run(self.plan, 2, lambda _: None, 0)
        assert set(codes) == {FINISHED}, codes
        self.check_result()
        counts = json.loads((Path(self.plan.folder) / "counts.json").read_text())
        points = sorted(set().union(*counts))
        return {point: [count.get(point, 0) for count in counts] for point in points}

    def killed_at(self, crash: Crash) -> bool:
        """Start, and die at a point; whether it did, or came to the end before."""
        world = max(self.rng.choice(_PROCESSES), crash.rank + 1)
        grace_s = self.rng.choice((0, 0, self.rng.uniform(0, 0.1)))
        plan = Plan(**{**vars(self.plan), "crash": crash})
        died = any(self.processes.run(plan, world, lambda _: None, grace_s))
        return self._after(died, crash.point)

    def killed_within(self, seconds: float) -> bool:
        """Start, and kill one process or all after a random time."""
        timers: list[threading.Timer] = []

        def plan_kill(running: list[int]) -> None:
            victims = running if self.rng.random() < 0.5 else [self.rng.choice(running)]
            timers.append(threading.Timer(self.rng.uniform(0, seconds), kill, [victims]))
            timers[0].start()

        died = any(self.processes.run(self.plan, self.rng.choice(_PROCESSES), plan_kill, 0))
        timers[0].cancel()
        timers[0].join()
        return self._after(died, RANDOM_TIME)

    def damage_the_newest(self) -> None:
        """Flip a bit of a file of the newest complete checkpoint in a folder."""
        place = open_place(self.plan.places[0])
        names = self._intact(place)
        if len(names) < 2:
            return
        folder = Path(place.where(names[-1]))
        path = self.rng.choice(sorted(folder.iterdir()))
        content = bytearray(path.read_bytes())
        content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(content)
        self.damaged.add((place.store.uri, str(names[-1])))
        self.newest[place.store.uri] = names[-2]

    def check_places(self) -> None:
        """Every complete checkpoint is of one step, and none that was committed got lost."""
        for uri in self.plan.places:
            place = open_place(uri)
            names = self._intact(place)
            for name in names:
                check_is_of_one_step(CheckpointReader(place, name))
            journal = journal_of(Path(self.plan.folder), place)
            lines = journal.read_text().splitlines() if journal.exists() else []
            committed = [name for name in map(CheckpointName.parse, lines) if name]
            known = [name for name in committed if (uri, str(name)) not in self.damaged]
            newest = max(
                [*known, *([self.newest[uri]] if uri in self.newest else [])], default=None
            )
            if newest is not None:
                assert names, f"{newest} got lost"
                assert names[-1] >= newest
                assert names[-1].step >= newest.step or self.damaged
            if names:
                self.newest[uri] = names[-1]

    def check_result(self) -> None:
        """The end is that of a run that nobody disturbed, and nothing is left lying about."""
        found = json.loads((Path(self.plan.folder) / "result.json").read_text())
        assert found == expected_values(self.plan.steps)
        self.check_places()
        for uri in self.plan.places:
            place = open_place(uri, Path(self.plan.folder) / ".staging")
            names = self._intact(place)
            assert names[-1].step == self.plan.steps
            if not self.damaged:
                best = max(score(name.step) for name in names)
                assert best == max(map(score, range(self.plan.every, self.plan.steps + 1,
                                                    self.plan.every)))  # fmt: skip
                assert len(names) <= RETENTION.keep_last + 1
            place.sweep(0)
            _check_nothing_else_is_there(place, names)
        assert not list((Path(self.plan.folder) / ".staging").glob("*"))

    def _after(self, died: bool, point: str) -> bool:
        if died:
            self.crashes[point] += 1
            self.check_places()
        else:
            self.check_result()
        return died

    def _intact(self, place: Place) -> list[CheckpointName]:
        return [n for n in place.checkpoints() if (place.store.uri, str(n)) not in self.damaged]


def _check_nothing_else_is_there(place: Place, names: list[CheckpointName]) -> None:
    readers = [CheckpointReader(place, name) for name in names]
    found = {name for name in place.store.names() if not name.startswith("attempts/")}
    if place.store.uri.startswith("s3:"):
        files = {f"files/{f.sha256}" for reader in readers for f in reader.manifest.all_files}
        assert found == files | {f"manifests/{name}.json" for name in names}
    else:
        files = {f"{r.name}/{f.name}" for r in readers for f in r.manifest.all_files}
        manifests = {f"{name}/{MANIFEST}" for name in names}
        wanted = files | manifests
        there = {name for name in found if name.partition("/")[0] in {str(n) for n in names}}
        assert there == wanted
        others = {name.partition("/")[0] for name in found - there} - {"copying.json"}
        assert all(CheckpointName.parse(other) for other in others), others
