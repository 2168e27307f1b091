"""Many runs that are killed at many points, as chosen by a seed."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.crash_points import Crash
from tests.crash.crashing_run import RANDOM_TIME, Calls, CrashingRun
from tests.crash.processes import Processes
from tests.crash.trainer import Plan

ALL = os.environ.get("PRS_MED_CRASHES") == "all"
SEED = int(os.environ.get("PRS_MED_CRASH_SEED", "0"))


@dataclass(frozen=True)
class Campaign:
    """How many crashes, and of what runs."""

    name: str
    crashes: int
    all_crashes: int
    """Instead, with ``PRS_MED_CRASHES=all``; then every point is also reached."""
    steps: int
    first: list[str]
    """The points that are tried even when few are."""
    may_damage: bool = False
    """Whether a file of the newest checkpoint is sometimes damaged after a crash."""
    s3: str = ""
    """The folder on S3, if any is used."""
    disk: bool = True
    environment: dict[str, str] = field(default_factory=dict)

    def go(self, processes: Processes, root: Path) -> None:
        """Kill runs until it is enough; each has to end as an undisturbed one does."""
        rng = random.Random(f"{self.name} {SEED}")
        numbers = itertools.count()

        def fresh() -> CrashingRun:
            return CrashingRun(processes, self._plan(root, next(numbers), rng), rng)

        calls = fresh().undisturbed_until_the_end()
        every_point = self._points(calls, rng)
        points: list[tuple[int, str]] = []
        wanted = self.all_crashes if ALL else self.crashes
        crashes: Counter[str] = Counter()
        while sum(crashes.values()) < wanted or (
            ALL and {p for _, p in every_point} - set(crashes)
        ):
            assert sum(crashes.values()) < 4 * wanted, f"never reached: {points}"
            points = points or list(every_point)
            run = fresh()
            self._disturb(run, points, calls, rng)
            crashes += run.crashes
        random_ones = crashes.pop(RANDOM_TIME, 0)
        print(
            f"{self.name}: {sum(crashes.values())} crashes at {len(crashes)} points and "
            f"{random_ones} {RANDOM_TIME}, of {next(numbers)} runs"
        )

    def _disturb(
        self,
        run: CrashingRun,
        points: list[tuple[int, str]],
        calls: Calls,
        rng: random.Random,
    ) -> None:
        """Kill a run one to three times, and let it end."""
        for _ in range(rng.randint(1, 3)):
            if not points or rng.random() < 0.2:
                died = run.killed_within(0.05 * self.steps)
            else:
                rank, point = points.pop(0)
                # Late calls come after the end where a run was resumed or has more processes.
                call = rng.randint(1, max(1, calls[point][rank] // 2))
                died = run.killed_at(Crash(rank, point, call, rng.random() < 0.3))
                if not died:
                    points.append((rank, point))
            if not died:
                return
            if self.may_damage and rng.random() < 0.15:
                run.damage_the_newest()
        run.undisturbed_until_the_end()

    def _plan(self, root: Path, number: int, rng: random.Random) -> Plan:
        folder = root / str(number)
        folder.mkdir()
        places = [str(folder / "checkpoints")] if self.disk else []
        places += [f"{self.s3}/{number}"] if self.s3 else []
        every = rng.choice((1, 2))
        return Plan(str(folder), places, 0, 1, self.steps, every, "", self.environment)

    def _points(self, calls: Calls, rng: random.Random) -> list[tuple[int, str]]:
        """Each process with each point that it comes by, those that matter most first."""
        reached = [
            (rank, point)
            for point, counts in calls.items()
            for rank, count in enumerate(counts)
            if count
        ]
        missing = set(self.first) - {point for _, point in reached}
        assert not missing, f"nothing comes by {missing}"
        early = [(0, point) for point in self.first]
        late = [pair for pair in reached if pair not in early]
        rng.shuffle(early)
        rng.shuffle(late)
        return [*early, *late]
