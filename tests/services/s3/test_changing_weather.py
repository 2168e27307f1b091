"""A whole training whose only place for checkpoints is an S3 server that comes and goes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.reader import CheckpointReader
from tests.conftest import Small
from tests.distributed.live_run import GO_ON_LATER, program
from tests.patience import patience
from tests.ports import free_port
from tests.programs import start
from tests.run_folder import loss_curve
from tests.services.s3.fault_proxy import Fault, FaultProxy, Request

pytestmark = pytest.mark.distributed

STEPS = 8
SETTINGS = ("--max_steps", str(STEPS), "--save_every_steps", "3", "--num_workers", "2")
"""With workers, as is usual, and at the precision that is usual."""
STALLED = 76
"""Exit status of a run whose watchdog ended it: it can go on, too."""
STARTS = 6

GOOD = Fault()
WEATHER = (
    GOOD,
    Fault(status=503),
    Fault(status=500, performed=True),
    Fault(reset=True),
    Fault(delay_s=0.3),
    Fault(bytes_per_s=4e6),
    Fault(cut_after=100),
)


class Weather:
    """What goes wrong with requests: the same for a while, then something else, or nothing."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._until = 0.0
        self._now = GOOD
        self.seen: set[Fault] = set()

    def __call__(self, request: Request) -> Fault:
        if time.monotonic() >= self._until:
            self._now = self._draw.choice(WEATHER)
            self._until = time.monotonic() + self._draw.uniform(0.05, 0.5)
        self.seen.add(self._now)
        return self._now


class Run:
    """Two processes, each with a folder of its own, as on two machines: checkpoints are on S3."""

    def __init__(self, small: Small, root: Path, *more: str) -> None:
        port = str(free_port())
        self.folders = [root / str(rank) for rank in range(2)]
        self._processes = [
            start(
                *program(small, folder, *SETTINGS, *more),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            )
            for rank, folder in enumerate(self.folders)
        ]

    def end(self) -> tuple[set[int], str]:
        """Their exit statuses, and what they have said."""
        said = [process.communicate(timeout=patience(300))[0] for process in self._processes]
        return {process.returncode for process in self._processes}, "\n".join(said)


def test_it_ends_as_if_undisturbed(
    small: Small,
    bucket: str,
    fault_proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Run(small, tmp_path / "whole", "--checkpoint_uri", f"s3://{bucket}/whole")
    statuses, output = whole.end()
    assert statuses == {0}, output[-6000:]

    weather = Weather(seed=0)
    fault_proxy.faults = weather
    uri = f"s3://{bucket}/run"
    for _ in range(STARTS):
        with monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)
            run = Run(small, tmp_path / "run", "--checkpoint_uri", uri)
            statuses, output = run.end()
        # 75 and 76 are what launchers start again (docs/failures.md).
        assert statuses <= {0, GO_ON_LATER, STALLED}, output[-6000:]
        if statuses == {0}:
            break
    assert statuses == {0}, output[-6000:]
    assert len(weather.seen) > len(WEATHER) // 2
    assert loss_curve(run.folders[0]) == loss_curve(whole.folders[0])
    place = open_place(uri)
    assert place.checkpoints()[-1].step == STEPS
    for name in place.checkpoints():
        CheckpointReader(place, name).verify()
