"""Of several starts of a run only one may save: never two at once, and the last one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prs_med.checkpoint import ownership
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.ownership import Attempt, Ownership, claim, last_attempt
from prs_med.checkpoint.saver import Saver
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import MissingFileError, StorageError
from tests.crash.cutting import zero2
from tests.patience import patience
from tests.unit.checkpoint_states import State, snapshots

JOBS = {
    "SLURM_JOB_ID": "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID": "TORCHELASTIC_RESTART_COUNT",
}
"""What names a job, and counts how often it was started again."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    """A place whose holders look often who knocks; nothing of the test's own job is seen."""
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.05)
    for job, restarts in JOBS.items():
        monkeypatch.delenv(job, raising=False)
        monkeypatch.delenv(restarts, raising=False)
    return DirectoryStore(tmp_path)


def claimed(store: DirectoryStore, run: str, after: int, **more: Any) -> Ownership:
    said: list[str] = []
    owned = claim(store, run, after, said.append, **more)
    wait_until(lambda: lease(store).get("attempt") == owned.attempt.number)
    return owned


def lease(store: DirectoryStore) -> dict[str, object]:
    try:
        return json.loads(store.read("lease.json"))
    except MissingFileError:
        return {}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patience(60)
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_of_many_threads_one_wins(store: DirectoryStore) -> None:
    won: list[Ownership] = []
    lost: list[SupersededError] = []
    together = threading.Barrier(8)

    def attempt(number: int) -> None:
        together.wait()
        try:
            won.append(claim(store, f"run {number}", 0, lambda text: None, patience=1.0))
        except SupersededError as error:
            lost.append(error)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert last_attempt(store) == won[0].attempt
    won[0].check()
    won[0].release()
    assert store.size("lease.json") is None


def test_a_place_that_another_process_uses_is_refused(store: DirectoryStore) -> None:
    owned = claimed(store, "run", 0)
    said: list[str] = []
    with pytest.raises(SupersededError, match=rf"process {os.getpid()} .* is saving there; give"):
        claim(store, "run", 1, said.append, patience=60.0)
    assert len(said) == 1
    assert "waiting up to 60 s" in said[0]
    owned.check()
    owned.release()


def test_a_lease_is_written_once_and_again_only_for_each_who_knocks(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket with versions keeps every one."""
    looks, written, write = [0], [0], store.write
    names = store.names

    def counted_names(prefix: str = "") -> list[str]:
        looks[0] += 1
        return names(prefix)

    def counted_write(name: str, data: bytes) -> None:
        written[0] += name == "lease.json"
        write(name, data)

    monkeypatch.setattr(store, "names", counted_names)
    monkeypatch.setattr(store, "write", counted_write)
    owned = claimed(store, "run", 0)
    wait_until(lambda: looks[0] > 10)
    assert written == [1]
    for knocks in (1, 2):
        with pytest.raises(SupersededError, match="is saving there"):
            claim(store, "run", 1, lambda text: None)
        wait_until(lambda begun=looks[0]: looks[0] > begun + 3)
        assert written == [1 + knocks]
    assert names("attempts/") == ["attempts/000001.json"]
    owned.release()


def test_who_knocked_and_was_killed_is_answered_once_and_forgotten(store: DirectoryStore) -> None:
    store.write("attempts/knock-of-one-that-was-killed", b"")
    owned = claimed(store, "run", 0)
    wait_until(lambda: store.names("attempts/") == ["attempts/000001.json"])
    assert lease(store)["renewals"] == 0
    owned.release()


def test_a_place_that_was_released_is_taken_at_once(store: DirectoryStore) -> None:
    claimed(store, "run", 0).release()
    said: list[str] = []
    owned = claim(store, "run", 1, said.append)
    assert (owned.attempt, said) == (Attempt(2, "run"), [])
    owned.release()


def test_a_lease_of_another_machine_counts_until_it_is_not_renewed(store: DirectoryStore) -> None:
    claimed(store, "run", 0).release()
    store.write("lease.json", json.dumps(
        {"attempt": 1, "host": "elsewhere", "process": 1, "namespace": "x", "job": "",
         "renewals": 5}).encode())  # fmt: skip
    said: list[str] = []
    owned = claim(store, "run", 1, said.append, patience=0.2)
    assert owned.attempt.number == 2
    assert "process 1 on elsewhere was saving there" in said[0]
    owned.release()


@pytest.mark.parametrize("name", JOBS)
def test_the_same_job_that_is_started_again_waits_for_nothing(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "job-4711")
    first = claimed(store, "run", 0)
    monkeypatch.setenv(JOBS[name], "1")
    said: list[str] = []
    second = claim(store, "run", 1, said.append)
    assert (second.attempt.number, said) == (2, [])
    with pytest.raises(SupersededError, match="attempt 2 of run run has taken over"):
        first.check()
    second.check()
    second.release()
    first.release()


@pytest.mark.parametrize("name", JOBS)
def test_a_second_start_within_one_job_does_not_take_over_what_still_runs(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Such as two srun in one allocation."""
    monkeypatch.setenv(name, "job-4711")
    monkeypatch.setenv(JOBS[name], "2")
    first = claimed(store, "run", 0)
    with pytest.raises(SupersededError, match="is saving there"):
        claim(store, "run", 1, lambda text: None)
    first.check()
    first.release()


def test_a_replaced_attempt_stops_renewing_and_leaves_the_lease_alone(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    first = claimed(store, "run", 0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = claimed(store, "run", 1)
    first._thread.join(patience(60))
    assert not first._thread.is_alive()
    before = lease(store)
    assert before["attempt"] == 2
    store.write("attempts/knock-now", b"")
    wait_until(lambda: lease(store)["renewals"] > before["renewals"])  # type: ignore[operator]
    first.release()
    assert lease(store)["attempt"] == 2
    second.check()
    second.release()


def test_a_replaced_attempt_may_not_commit(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    place = DirectoryPlace(tmp_path)
    state = State.random({"mllm": [[3]]})
    (part,) = snapshots(state, {"mllm": zero2(state.parameters["mllm"], 1)})
    first = claimed(store, "run", 0)
    early = Saver(place, 0, 1, "run", may_commit=first.check)
    early.save(CheckpointName(1, 1), part)
    outcome = early.wait()
    assert outcome is not None
    assert not outcome.error
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    second = claimed(store, "run", 1)
    early.save(CheckpointName(1, 2), part)
    outcome = early.wait()
    assert outcome is not None
    assert outcome.superseded
    assert "attempt 2 of run run has taken over from this one (1)" in outcome.error
    (logged,) = caplog.messages
    assert "training goes on" not in logged
    late = Saver(place, 0, 1, "run", may_commit=second.check)
    late.save(CheckpointName(2, 2), part)
    outcome = late.wait()
    assert outcome is not None
    assert not outcome.error
    assert place.checkpoints() == [CheckpointName(1, 1), CheckpointName(2, 2)]
    assert not list(tmp_path.glob(".draft-*"))
    for owned in (first, second):
        owned.release()


def test_another_run_in_the_same_folder_is_noticed(store: DirectoryStore) -> None:
    owned = claimed(store, "mine", 0)
    store.write("attempts/000001.json", json.dumps({"run": "theirs"}).encode())
    with pytest.raises(SupersededError, match="attempt 1 of run theirs has taken over"):
        owned.check()
    owned.release()


def test_claims_that_cannot_be_listed_are_no_permission(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "place")
    owned = claimed(store, "run", 0)
    (tmp_path / "place" / "attempts").rename(tmp_path / "elsewhere")
    (tmp_path / "place" / "attempts").write_bytes(b"a file where a folder should be")
    with pytest.raises(StorageError, match="attempts"):
        owned.check()
    owned.release()


@pytest.mark.parametrize("left", [b"", b"{", b"[1]", b'{"attempt": 1}'])
def test_a_damaged_lease_counts_until_it_is_not_renewed(store: DirectoryStore, left: bytes) -> None:
    """As a machine that loses power may leave it."""
    store.write("lease.json", left)
    said: list[str] = []
    owned = claim(store, "run", 0, said.append, patience=0.2)
    assert "a process of unknown name was saving there" in said[0]
    owned.check()
    owned.release()


def test_who_renews_a_damaged_lease_is_alive(store: DirectoryStore) -> None:
    first = claimed(store, "run", 0)
    store.write("lease.json", b"")
    with pytest.raises(SupersededError, match=rf"process {os.getpid()} .* is saving there"):
        claim(store, "run", 1, lambda text: None)
    first.release()


@pytest.mark.parametrize("left", [b"", b"{", b"7", b"[]"])
def test_a_damaged_claim_counts_and_the_run_is_told_by_those_before(
    store: DirectoryStore, left: bytes
) -> None:
    claimed(store, "run", 0, about={"settings": {"seed": 1}}).release()
    store.write("attempts/000002.json", left)
    store.write("attempts/notes.json", b"not a claim")
    assert last_attempt(store) == Attempt(2, "run")
    owned = claimed(store, "run", 2)
    store.write("attempts/000003.json", left)
    owned.check()
    owned.release()


def test_claims_that_are_all_damaged_tell_no_run(store: DirectoryStore) -> None:
    store.write("attempts/000001.json", b"")
    assert last_attempt(store) == Attempt(1, "")


def test_a_claim_says_what_it_is_told_of_the_run(store: DirectoryStore) -> None:
    claimed(store, "run", 0, about={"settings": {"seed": 1}}).release()
    found = last_attempt(store)
    assert found is not None
    assert found.about["settings"] == {"seed": 1}


def test_the_end_does_not_wait_for_a_place_that_does_not_answer(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ownership, "RELEASE_SECONDS", 0.2)
    for silent in ("names", "read"):
        owned = claimed(store, "run", 0)
        answers = threading.Event()

        def say_nothing(*_: object, until: threading.Event = answers) -> list[str]:
            until.wait(patience(60))
            return []

        monkeypatch.setattr(store, silent, say_nothing)
        time.sleep(0.1)
        begun = time.monotonic()
        owned.release()
        assert time.monotonic() - begun < patience(5)
        assert "does not answer; the lease stays until it expires" in caplog.messages[-1]
        monkeypatch.undo()
        monkeypatch.setattr(ownership, "RELEASE_SECONDS", 0.2)
        answers.set()
        for name in store.names():
            store.delete(name)


def test_claim_and_lease_say_who_holds_them(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    owned = claimed(store, "run", 2)
    who = {"attempt": 3, "host": socket.gethostname(), "process": os.getpid(), "job": "slurm 4711"}
    found = lease(store)
    assert who.items() <= found.items()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() in str(found["namespace"])
    claim_file = json.loads(store.read("attempts/000003.json"))
    assert claim_file == {"run": "run", **found, "renewals": 0}
    owned.release()


def test_a_process_that_never_releases_can_end_all_the_same(store: DirectoryStore) -> None:
    before = threading.enumerate()
    owned = claimed(store, "run", 0)
    leases = [thread for thread in threading.enumerate() if thread not in before]
    assert [thread.daemon for thread in leases] == [True]
    owned.release()


def test_processes_that_torchrun_gave_no_name_are_not_one_job(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    owned = claimed(store, "run", 0)
    with pytest.raises(SupersededError, match="is saving there"):
        claim(store, "run", 1, lambda text: None)
    owned.release()
