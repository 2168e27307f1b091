"""Asked to end while S3 is away, a run saves where it can, and has ended in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.launcher import Job, run_jobs
from tests.distributed.live_run import (
    GO_ON_LATER,
    assert_saved,
    start,
    wait_for_lines,
)
from tests.patience import patience
from tests.services.s3.fault_proxy import Fault, FaultProxy, Request
from tests.short_training import short

pytestmark = pytest.mark.distributed

BUDGET_S = 20


@pytest.fixture
def away(
    bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Takes S3 away from all runs that were started with it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)

    def take() -> None:
        fault_proxy.faults = lambda request: Fault(status=503)

    return take


@pytest.mark.parametrize("launcher", ["python", "deepspeed"])
def test_with_a_folder_nothing_is_lost(
    small, bucket: str, away: Callable[[], None], tmp_path: Path, launcher: str
) -> None:
    more = ("--max_steps", "100000", "--checkpoint_uri", f"s3://{bucket}/run")
    process = start(small, launcher, tmp_path, *more, "--stop_seconds", str(BUDGET_S))
    try:
        wait_for_lines(process, tmp_path, 1)
        away()
        begun = time.monotonic()
        if launcher == "python":
            process.terminate()
        else:
            (tmp_path / "STOP").touch()
        output, _ = process.communicate(timeout=patience(200))
        seconds = time.monotonic() - begun
    finally:
        process.kill()
    assert_saved(tmp_path, "SIGTERM" if launcher == "python" else "STOP", output)
    assert "not on S3 yet" in output
    # Apart from the end of the processes themselves.
    assert seconds < patience(BUDGET_S + 20)
    if launcher == "python":
        assert process.returncode == GO_ON_LATER


def test_with_s3_alone_it_ends_in_time_too(
    small, bucket: str, away: Callable[[], None], fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    def away_after_a_step(request: Request) -> None:
        """While what is superfluous then is removed, so that the next save has to wait."""
        if request.method == "PUT" and "/manifests/step-00000001-" in request.path:
            away()

    fault_proxy.faults = away_after_a_step
    run = short(
        *(small.arguments(), "--max_steps", "100000", "--checkpoint_uri", f"s3://{bucket}/run"),
        *("--stop_seconds", str(BUDGET_S), "--save_every_steps", "1"),
    )
    begun = time.monotonic()
    run_jobs([Job(tmp_path / "own_{rank}", run, stop_after=2)], 2, tmp_path)
    assert time.monotonic() - begun < patience(BUDGET_S + 60)
    assert '"stopped"' in (tmp_path / "own_0" / "status.json").read_text()
