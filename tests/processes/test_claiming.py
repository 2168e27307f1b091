"""Of several processes that claim a place for their run one wins, and a killed one is replaced."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from prs_med.checkpoint.ownership import Attempt, claim, last_attempt
from prs_med.storage.directory import DirectoryStore
from tests.programs import start


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    """Nothing of the test's own job is seen."""
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return DirectoryStore(tmp_path)


def claimer(store: DirectoryStore, run: str, afresh: bool = False) -> subprocess.Popen[str]:
    """A process that claims when it is told so, and ends when it is told so again."""
    arguments = ("tests.processes.claimer", store.uri, run)
    return start(*arguments, afresh=afresh, stdin=subprocess.PIPE, stderr=None)


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_several_processes_one_wins(store: DirectoryStore) -> None:
    processes = [claimer(store, f"run {n}") for n in range(3)]
    for process in processes:
        tell(process)
    results = [heard(process) for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(results) == ["lost", "lost", "won"]
    winner = last_attempt(store)
    assert winner == Attempt(1, f"run {results.index('won')}")


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_of_this_machine_is_replaced_at_once(
    store: DirectoryStore, reaped: bool
) -> None:
    """Also while its parent has not asked for its end yet."""
    process = claimer(store, "run", afresh=True)
    tell(process)
    assert heard(process) == "won"
    process.kill()
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    said: list[str] = []
    owned = claim(store, "run", 1, said.append)
    assert (owned.attempt.number, said) == (2, [])
    owned.release()
    process.communicate()


def test_a_process_with_an_odd_name_is_not_taken_for_ended(
    store: DirectoryStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = tmp_path_factory.mktemp("odd") / "x) Z 1"
    shutil.copy(shutil.which("sleep"), program)
    owned = claim(store, "run", 0, lambda text: None)
    while store.size("lease.json") is None:
        time.sleep(0.01)
    here = json.loads(store.read("lease.json"))
    owned.release()
    with subprocess.Popen([program, "600"]) as odd:
        store.write("lease.json", json.dumps({**here, "process": odd.pid}).encode())
        said: list[str] = []
        claim(store, "run", 1, said.append, patience=0.2).release()
        odd.kill()
    assert f"process {odd.pid} on {socket.gethostname()} was saving there" in said[0]
