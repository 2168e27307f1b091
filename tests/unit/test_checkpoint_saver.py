"""Saving in the background: all parts or nothing, and after a failure the next one succeeds."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.manifest import CheckpointName, StoredFile
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.saver import Saver
from prs_med.checkpoint.snapshot import Snapshot
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.retry import waits_for_storage
from prs_med.storage.store import StorageAwayError, StorageError
from tests.crash.cutting import zero2
from tests.patience import patience
from tests.unit.checkpoint_saves import BYTES, CUTS, STATE, check_saved, drafts, save_all, savers
from tests.unit.checkpoint_states import snapshots


def test_a_part_that_fails_is_no_checkpoint_and_the_next_save_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(tmp_path)
    both, parts = savers(place), snapshots(STATE, CUTS)
    broken = Snapshot({"a/b": parts[1].groups["mllm"]})  # no name of a file
    first, second = save_all(both, 1, [parts[0], broken])
    assert "process 1 could not write its part" in first.error
    assert second.error
    assert len(caplog.messages) == 1
    assert drafts(tmp_path) == []
    assert not any(outcome.error for outcome in save_all(both, 2, parts))
    check_saved(place, [2])


def test_a_process_that_never_reports_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(tmp_path)
    three = savers(place, report_seconds=0.3, world=3)
    cuts = {"mllm": zero2(STATE.parameters["mllm"], 3)}
    parts = snapshots(STATE, cuts)
    three[0].save(CheckpointName(1, 1), parts[0])
    outcome = three[0].wait()
    assert outcome is not None
    assert outcome.error == "process 0: no word from process 1 and 1 more in 0 s"
    assert caplog.messages == [
        "checkpoint step-00000001-01 was not saved: process 0: no word from process 1 and 1 more "
        "in 0 s; training goes on"
    ]
    # A report that comes too late does no harm, and is swept.
    three[1].save(CheckpointName(1, 1), parts[1])
    three[1].wait()
    assert place.checkpoints() == []
    assert len(drafts(tmp_path)) == 1
    place.sweep(0)
    assert drafts(tmp_path) == []
    patient = savers(place, world=3)
    assert not save_all(patient, 2, parts)[0].error
    check_saved(place, [2])


def test_the_first_process_may_end_the_save_as_soon_as_the_last_note_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = DirectoryPlace(tmp_path)
    both, parts = savers(place), snapshots(STATE, CUTS)
    give_name = os.replace

    def and_be_slow_then(unfinished: object, final: object) -> None:
        give_name(unfinished, final)
        if str(final).endswith(".report-00001"):
            both[0].wait()

    # Whichever of the two gives the note its name.
    monkeypatch.setattr(os, "replace", and_be_slow_then)
    monkeypatch.setattr(DirectoryStore._replace, "__defaults__", (and_be_slow_then,))
    assert [outcome.error for outcome in save_all(both, 1, parts)] == ["", ""]
    check_saved(place, [1])
    assert drafts(tmp_path) == []


def test_a_note_for_a_save_that_has_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    with pytest.raises(StorageError, match=r"/\.draft-.*/\.report-00001: No such file"):
        place.report(CheckpointName(1, 1), 1, b"{}")
    assert drafts(tmp_path) == []


def test_a_note_of_a_failed_save_is_not_taken_for_one_of_the_next(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    both, parts = savers(place, report_seconds=0.3), snapshots(STATE, CUTS)
    for saver, part in zip(both, parts, strict=True):  # one after the other, which is too late
        saver.save(CheckpointName(1, 1), part)
        saver.wait()
    assert list(place.reports(CheckpointName(1, 1))) == [1]
    both[0].save(CheckpointName(1, 1), parts[0])
    alone = both[0].wait()
    assert alone is not None
    assert "no word from process 1" in alone.error
    assert place.checkpoints() == []


def test_a_place_that_is_away_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    class Failing(DirectoryPlace):
        error: type[StorageError] = StorageError

        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            raise self.error(f"{name}: 503")

    good, parts = DirectoryPlace(tmp_path), snapshots(STATE, CUTS)
    for step, error in enumerate((StorageAwayError, StorageError)):
        failing = Failing(tmp_path)
        failing.error = error
        both = [Saver(good, 0, 2, "run"), Saver(failing, 1, 2, "run")]
        for outcome in save_all(both, step, parts):
            assert "503" in outcome.error
            assert outcome.away == (error is StorageAwayError)


@pytest.mark.parametrize(("uri", "waits"), [("s3://bucket/a", True), ("/shared/a", False)])
def test_who_waits_for_a_save_on_s3_does_not_hang(tmp_path: Path, uri: str, waits: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(DirectoryPlace):
        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            begun.set()
            assert go_on.wait(patience(60))

    place = Slow(tmp_path)
    place.store.uri = uri
    saver = Saver(place, 0, 1, "run")
    saver.save(
        CheckpointName(1, 1), snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)})[0]
    )
    assert begun.wait(patience(60))
    assert not waits_for_storage()
    waiting = threading.Thread(target=saver.wait)
    waiting.start()
    deadline = time.monotonic() + (patience(60) if waits else 0.2)
    while not waits_for_storage() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert waits_for_storage() == waits
    go_on.set()
    waiting.join()
    assert not waits_for_storage()


def test_notes_that_are_known_are_not_read_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    class Counting(DirectoryPlace):
        def reports(self, name: CheckpointName, known: Collection[int] = ()) -> dict[int, bytes]:
            asked.append(sorted(known))
            return super().reports(name, known)

    place, parts = Counting(tmp_path), snapshots(STATE, CUTS)
    both = savers(place)
    both[0].save(CheckpointName(1, 1), parts[0])
    while [0] not in asked:
        time.sleep(0.01)
    both[1].save(CheckpointName(1, 1), parts[1])
    outcome = both[0].wait()
    assert outcome is not None
    assert not outcome.error
    assert place.reports(CheckpointName(1, 1), [0, 1]) == {}
    check_saved(place, [1])


def test_a_checkpoint_that_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    both, parts = savers(place), snapshots(STATE, CUTS)
    save_all(both, 1, parts)
    before = place.manifest(CheckpointName(1, 1))
    again = save_all(both, 1, parts)
    assert again[0].superseded
    assert "is there already" in again[0].error
    assert place.manifest(CheckpointName(1, 1)) == before
    check_saved(place, [1])
    assert drafts(tmp_path) == []


def test_what_must_not_be_committed_is_not(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StorageError("attempts/: cannot be listed")

    place = DirectoryPlace(tmp_path)
    saver = Saver(place, 0, 1, "run", may_commit=refuse)
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)})
    saver.save(CheckpointName(1, 1), part)
    outcome = saver.wait()
    assert outcome is not None
    assert outcome.error == "process 0: attempts/: cannot be listed"
    assert not outcome.superseded
    assert place.checkpoints() == drafts(tmp_path) == []


def test_a_complete_checkpoint_can_be_given_scores(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    both, parts = savers(place), snapshots(STATE, CUTS)
    save_all(both, 1, parts)
    before = CheckpointReader(place, CheckpointName(1, 1)).manifest
    both[0].amend(CheckpointName(1, 1), {"scores": {"val_dice": 0.5}})
    outcome = both[0].wait()
    assert outcome is not None
    assert not outcome.error
    after = CheckpointReader(place, CheckpointName(1, 1)).manifest
    assert after == replace(before, state={"scores": {"val_dice": 0.5}})
    check_saved(place, [1])


@pytest.mark.parametrize(
    ("failure", "superseded"), [(StorageError("full"), False), (SupersededError("newer"), True)]
)
def test_scores_that_cannot_be_added_leave_the_checkpoint_as_it_is(
    tmp_path: Path, failure: Exception, superseded: bool
) -> None:
    def refuse() -> None:
        if place.checkpoints():
            raise failure

    place = DirectoryPlace(tmp_path)
    saver = Saver(place, 0, 1, "run", may_commit=refuse)
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)})
    saver.save(CheckpointName(1, 1), part)
    saver.wait()
    saver.amend(CheckpointName(1, 1), {"scores": {"val_dice": 0.5}})
    outcome = saver.wait()
    assert outcome is not None
    assert outcome.superseded == superseded
    assert CheckpointReader(place, CheckpointName(1, 1)).manifest.state == part.state
    check_saved(place, [1])


def test_training_goes_on_while_files_are_written(tmp_path: Path) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class Slow(DirectoryPlace):
        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            writing.set()
            assert go_on.wait(patience(60))

    done: list[CheckpointName] = []
    saver = Saver(Slow(tmp_path), 0, 1, "run", committed=done.append)
    assert saver.wait() is None
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)})
    saver.save(CheckpointName(1, 1), part)
    assert writing.wait(patience(60))
    assert saver.busy
    assert DirectoryPlace(tmp_path).checkpoints() == []
    go_on.set()
    saver.wait()
    assert not saver.busy
    assert done == [CheckpointName(1, 1)]
    check_saved(DirectoryPlace(tmp_path), [1])


def test_a_state_without_anything_trained_can_be_saved(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    empty = Snapshot({}, {}, {}, {"step": 0})
    assert not save_all(savers(place), 0, [empty, empty])[0].error
    CheckpointReader(place, CheckpointName(1, 0)).verify()


def test_files_can_be_read_by_the_group_as_the_umask_says(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    save_all(savers(place), 1, snapshots(STATE, CUTS))
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "step-00000001-01").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path.name
    manifest = json.loads(place.manifest(CheckpointName(1, 1)))
    assert np.sum([entry["file"]["size"] for entry in manifest["shards"]]) > BYTES
