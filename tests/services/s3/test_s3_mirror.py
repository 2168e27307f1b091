"""Copies of local checkpoints on S3: whatever S3 does, saving goes on, and what is left goes up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prs_med.checkpoint import mirror
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.manifest import CheckpointName, StoredFile
from prs_med.checkpoint.mirror import Mirror
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import Pruner, Retention
from prs_med.checkpoint.s3_place import S3Place
from prs_med.storage import s3
from prs_med.storage.store import StorageError
from tests.services.s3.fault_proxy import Fault, Request
from tests.services.s3.s3_places import Server, check_saved, check_whole, parts
from tests.unit.checkpoint_states import save

LONG = 120.0
Start = Callable[..., list[Mirror]]


def name(step: int, attempt: int = 1) -> CheckpointName:
    return CheckpointName(attempt, step)


@pytest.fixture
def local(tmp_path: Path) -> DirectoryPlace:
    return DirectoryPlace(tmp_path / "local")


@pytest.fixture
def start(
    server: Server, local: DirectoryPlace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Starts the mirror of each process."""
    monkeypatch.setattr(mirror, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "_LONGEST_PAUSE_SECONDS", 0.2)
    started: list[Mirror] = []

    def go(
        places: list[S3Place],
        attempt: int = 1,
        ranks: tuple[int, ...] = (0, 1),
        **more: Callable[[], None],
    ) -> list[Mirror]:
        group = [
            Mirror(local, place, rank, len(places), attempt, **more)
            for rank, place in enumerate(places)
            if rank in ranks
        ]
        started.extend(group)
        return group

    yield go
    server.proxy.faults = lambda request: None
    for one in started:
        one.finish(0)
    for one in started:
        one._thread.join(LONG)


def test_what_is_saved_here_goes_up(server: Server, local: DirectoryPlace, start: Start) -> None:
    places = server.places()
    both = start(places)
    for step in (1, 2):
        assert not save(local, parts(step), name(step)).error
    assert [one.finish(LONG) for one in both] == [[], []]
    check_saved(places[0], [1, 2])
    assert [places[0].manifest(n) for n in local.checkpoints()] == [
        local.manifest(n) for n in local.checkpoints()]  # fmt: skip
    assert server.staged() == server.keys("reports/") == []


def test_what_an_earlier_start_left_goes_up_at_the_next_with_other_processes(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    save(local, parts(1), name(1))
    places = server.places()
    # Notes of an earlier start, of two processes, one of which had not been ready.
    places[1].report(name(1), 1, b'{"attempt": 1, "task": 1, "checkpoint": "step-00000001-01"}')
    save(local, parts(2), name(2))
    (alone,) = start(server.places(1), attempt=2)
    assert alone.finish(LONG) == []
    check_saved(places[0], [1, 2])


def test_an_s3_that_is_away_stops_neither_saving_nor_the_end_and_is_caught_up_with(
    server: Server, local: DirectoryPlace, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.proxy.faults = lambda request: Fault(status=503)
    both = start(server.places(patience=0.3))
    pruner = Pruner(local, Retention(2, "val_dice", higher_is_better=True))
    for step in range(1, 5):
        assert not save(local, parts(step), name(step)).error
        pruner.prune()
    assert [one.finish(0.5) for one in both] == [[name(4), name(3)]] * 2
    assert "checkpoints are kept here until they can be copied" in caplog.text
    check_saved(local, [3, 4])
    server.proxy.faults = lambda request: None
    again = start(server.places(), attempt=2)
    assert [one.finish(LONG) for one in again] == [[], []]
    check_saved(server.places()[0], [3, 4])


def test_the_end_does_not_wait_for_an_answer_of_s3(
    server: Server, local: DirectoryPlace, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_SILENCE_SECONDS", 1)
    save(local, parts(1), name(1))
    asked = threading.Event()

    def silent(request: Request) -> Fault:
        asked.set()
        return Fault(delay_s=LONG)

    server.proxy.faults = silent
    (alone,) = start(server.places(1, patience=LONG))
    assert asked.wait(LONG)
    ended = threading.Event()
    threading.Thread(target=lambda: (alone.finish(0.1), ended.set()), daemon=True).start()
    assert ended.wait(LONG / 4)


def test_a_bad_network_is_no_hindrance(server: Server, local: DirectoryPlace, start: Start) -> None:
    kinds = [Fault(status=503), Fault(reset=True), Fault(upload_flip_at=5),
             Fault(upload_cut_after=10), Fault(reset=True, performed=True)]  # fmt: skip
    server.proxy.faults = lambda request: (
        kinds[request.number // 3 % len(kinds)] if request.number % 3 == 0 else None
    )
    both = start(server.places(patience=LONG))
    for step in (1, 2):
        save(local, parts(step, b"%d" % step), name(step))
    assert [one.finish(LONG) for one in both] == [[], []]
    server.proxy.faults = lambda request: None
    check_saved(server.places()[0], [1, 2])


def test_scores_that_a_checkpoint_is_given_later_go_up_too(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    (place,) = server.places(1)
    for step in (1, 2):
        save(local, parts(step), name(step))
    (first,) = start([place])
    assert first.finish(LONG) == []
    scored(local, name(1))  # by a start that was killed then
    (second,) = start([place], attempt=2)
    wait_until(lambda: place.manifest(name(1)) == local.manifest(name(1)))
    scored(local, name(2))
    second.changed(name(2))
    assert second.finish(LONG) == []
    assert place.manifest(name(2)) == local.manifest(name(2))
    check_saved(place, [1, 2])


def scored(place: DirectoryPlace, named: CheckpointName) -> None:
    manifest = CheckpointReader(place, named).manifest
    place.amend(named, replace(manifest, state={**manifest.state, "scores": {"a": 1}}).dumps())


def test_a_place_that_is_claimed_late_gets_its_copies(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    (place,) = server.places(1)
    save(local, parts(1), name(1))
    tries = [StorageError("away"), StorageError("still away"), None]

    def claim() -> None:
        if failure := tries.pop(0):
            raise failure

    (alone,) = start([place], clear_up=claim)
    assert alone.finish(LONG) == []
    assert tries == []


def test_who_is_asked_to_end_while_it_copies_does_not_wait_as_long(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    server.proxy.faults = lambda request: Fault(status=503)
    save(local, parts(1), name(1))
    (alone,) = start(server.places(1, patience=0.3))
    begun = time.monotonic()
    asked = iter([None, None, 0.2])
    assert alone.finish(LONG, lambda: next(asked, 0.2)) == [name(1)]
    assert time.monotonic() - begun < LONG / 4


def test_processes_that_see_different_checkpoints_copy_the_same_one(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    """One looks before, the other after the second checkpoint is complete."""
    places = server.places()
    save(local, parts(1), name(1))
    stopped, go_on = threading.Event(), threading.Event()

    class Stopping(S3Place):
        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            stopped.set()
            assert go_on.wait(LONG)
            super().publish(name, file)

    first = Stopping(places[0]._s3, server.staging / "first")
    start([first, places[1]], ranks=(0,))
    assert stopped.wait(LONG)
    save(local, parts(2), name(2))
    start([first, places[1]], ranks=(1,))
    go_on.set()
    wait_for(places[0], [1, 2])
    check_saved(places[0], [1, 2])


def wait_for(place: S3Place, steps: list[int]) -> None:
    wait_until(lambda: [found.step for found in place.checkpoints()] == steps)


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(LONG / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("never")


def test_a_checkpoint_that_is_removed_here_while_it_goes_up_still_gets_there(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    (place,) = server.places(1)
    stopped, go_on = threading.Event(), threading.Event()

    class Stopping(S3Place):
        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            stopped.set()
            assert go_on.wait(LONG)
            super().publish(name, file)

    save(local, parts(1), name(1))
    (alone,) = start([Stopping(place._s3, server.staging / "stopping")])
    assert stopped.wait(LONG)
    save(local, parts(2), name(2))
    local.remove(name(1))
    go_on.set()
    assert alone.finish(LONG) == []
    check_saved(place, [1, 2])
    assert server.staged() == []


def test_a_checkpoint_that_is_damaged_here_does_not_stop_the_others(
    server: Server, local: DirectoryPlace, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save(local, parts(step), name(step))
    (Path(local.where(name(3))) / "mllm-00001-000.safetensors").unlink()
    (Path(local.where(name(2))) / "manifest.json").write_bytes(b"{}")
    both = start(server.places())
    assert both[0].finish(LONG) == []
    places = server.places()
    check_saved(places[0], [1])
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 2
    assert all("is damaged here, and not copied" in error for error in errors)


def test_the_copies_are_pruned_by_themselves(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    (place,) = server.places(1)
    pruner = Pruner(place, Retention(2, "val_dice", higher_is_better=True))
    (alone,) = start([place], committed=pruner.prune)
    for step in range(1, 6):
        save(local, parts(step, b"%d" % step), name(step))
    assert alone.finish(LONG) == []
    names = [found.step for found in place.checkpoints()]
    assert names[-1] == 5
    assert len(names) == 2
    for found in place.checkpoints():
        check_whole(place, found)


def test_no_process_waits_for_copies_that_were_pruned_at_once(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    """What is kept here need not be kept there: a crash may have come before the removal here."""
    places = server.places()
    for step in range(1, 5):
        save(local, parts(step, b"%d" % step), name(step))
    pruner = Pruner(places[0], Retention(1, "val_dice", higher_is_better=True))
    both = start(places, committed=pruner.prune)
    assert [one.finish(LONG) for one in both] == [[], []]
    check_saved(places[0], [4])
    check_saved(local, [1, 2, 3, 4])


def test_a_replaced_attempt_copies_nothing_more(
    server: Server, local: DirectoryPlace, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def replaced() -> None:
        raise SupersededError("attempt 2 has taken over")

    save(local, parts(1), name(1))
    (alone,) = start(server.places(1), may_commit=replaced)
    assert alone.finish(LONG) == [name(1)]
    assert "checkpoints are no longer copied: attempt 2 has taken over" in caplog.text
    assert server.keys("manifests/") == []


def test_a_lost_disk_is_replaced_by_the_copies(
    server: Server, local: DirectoryPlace, start: Start
) -> None:
    both = start(server.places())
    save(local, parts(1), name(1))
    assert [one.finish(LONG) for one in both] == [[], []]
    shutil.rmtree(local.store.uri)
    check_whole(server.places()[0], name(1))
