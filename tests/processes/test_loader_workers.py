"""A loader's workers leave signals to the main process, which saves meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from prs_med.data.loader_workers import GuardedLoader
from tests.patience import patience


def others_send(number: signal.Signals, process: int) -> None:
    """A signal as it comes from outside the run."""
    subprocess.run(["kill", f"-{number.name.removeprefix('SIG')}", str(process)], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_whoever_signals_the_whole_group_ends_no_worker(number: signal.Signals) -> None:
    batches = iter(GuardedLoader(range(40), batch_size=2, num_workers=2))
    found = next(batches).tolist()
    for worker in batches._workers:
        others_send(number, worker.pid)
    assert found + [value for batch in batches for value in batch.tolist()] == list(range(40))


def test_a_worker_that_has_only_begun_is_safe_too() -> None:
    batches = iter(GuardedLoader(range(40), batch_size=2, num_workers=2))
    for worker in batches._workers:
        others_send(signal.SIGTERM, worker.pid)
    assert [value for batch in batches for value in batch.tolist()] == list(range(40))


def test_the_parent_still_ends_a_worker_that_does_not_end_by_itself() -> None:
    batches = iter(GuardedLoader(range(40), batch_size=2, num_workers=1))
    next(batches)
    (worker,) = batches._workers
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(patience(30))
    assert worker.exitcode == 0


def test_the_main_process_gets_its_signals_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    iter(GuardedLoader(range(4), num_workers=1))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
