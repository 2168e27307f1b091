"""Saving in the background: all parts or nothing, and after a failure the next one succeeds."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import CheckpointName, StoredFile
from prs_med.checkpoint.preflight import check_disk, check_store
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.saver import Outcome, Saver
from prs_med.checkpoint.snapshot import Snapshot
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import StorageError
from tests.crash.cutting import zero2
from tests.unit.checkpoint_states import State, load, snapshots

STATE = State.random({"mllm": [[40_000]]})
CUTS = {"mllm": zero2(STATE.parameters["mllm"], 2)}
BYTES = sum(vector.nbytes for vector in STATE.vectors["mllm"].values())


def savers(place: DirectoryPlace, report_seconds: float = 60.0, world: int = 2) -> list[Saver]:
    return [Saver(place, rank, world, "run", report_seconds=report_seconds)
            for rank in range(world)]  # fmt: skip


def save_all(both: list[Saver], step: int, parts: list[Snapshot]) -> list[Outcome]:
    for saver, part in zip(both, parts, strict=True):
        saver.save(CheckpointName(1, step), part)
    outcomes = [saver.wait() for saver in both]
    assert all(outcomes)
    return [outcome for outcome in outcomes if outcome]


def check_saved(place: DirectoryPlace, steps: list[int]) -> None:
    """These and no others are complete, and nothing else is left."""
    assert [name.step for name in place.checkpoints()] == steps
    for name in place.checkpoints():
        reader = CheckpointReader(place, name)
        reader.verify()
        load(reader, STATE, CUTS)


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".draft-")]


def has_no_room(root: Path, options: str) -> Iterator[Path]:
    mounted = root / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and half of another."""
    yield from has_no_room(tmp_path, f"size={int(1.5 * BYTES) // 4096 * 4096}")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from has_no_room(tmp_path, "ro,size=1m")


def test_a_full_disk_costs_one_checkpoint_and_one_line_in_the_log(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(small_disk)
    both, parts = savers(place), snapshots(STATE, CUTS)
    save_all(both, 1, parts)
    failed = save_all(both, 2, parts)
    assert "No space left on device" in failed[0].error
    # A process whose disk has no room even for saying so logs that too.
    (logged,) = [line for line in caplog.messages if "cannot be reported" not in line]
    assert logged.startswith("checkpoint step-00000002-01 was not saved: process ")
    assert "No space left on device" in logged
    assert logged.endswith("; training goes on")
    check_saved(place, [1])
    place.sweep(0)
    assert drafts(small_disk) == []
    place.remove(CheckpointName(1, 1))
    assert not any(outcome.error for outcome in save_all(both, 3, parts))
    check_saved(place, [3])


def test_a_process_that_finds_the_disk_full_leaves_room_to_say_so(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(small_disk)
    parts = [*snapshots(STATE, {"mllm": [[], CUTS["mllm"][0]]})]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(BYTES + BYTES // 4 // 4096 * 4096))
    first, second = save_all(savers(place), 1, parts)
    assert "No space left" in second.error
    assert first.error == (
        "process 0: process 1 could not write its part: process 1: [Errno 28] No space left on "
        "device"
    )
    assert len(caplog.messages) == 1
    assert drafts(small_disk) == []


def test_a_file_that_may_not_grow_costs_one_checkpoint(tmp_path: Path) -> None:
    """In a process of its own, because the limit holds for all its threads."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.unit.test_checkpoint_saver import *\n"
        "place = DirectoryPlace(Path(sys.argv[1])); both = savers(place)\n"
        "parts = snapshots(STATE, CUTS)\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))\n"
        "assert 'File too large' in save_all(both, 1, parts)[0].error\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "assert not save_all(both, 2, parts)[0].error\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    check_saved(DirectoryPlace(tmp_path), [2])


def test_a_folder_that_is_read_only_is_found_at_the_start_and_later_costs_no_training(
    read_only_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(read_only_disk / "checkpoints")
    with pytest.raises(StorageError, match=r"small/checkpoints/.*Read-only file system"):
        check_store(place.store)
    outcomes = save_all(savers(place, 0.2), 1, snapshots(STATE, CUTS))
    assert all("Read-only file system" in outcome.error for outcome in outcomes)
    errors = [text for text in caplog.messages if "was not saved" in text]
    assert len(errors) == 1
    assert place.checkpoints() == []


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


def test_training_goes_on_while_files_are_written(tmp_path: Path) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class Slow(DirectoryPlace):
        def publish(self, name: CheckpointName, file: StoredFile) -> None:
            writing.set()
            assert go_on.wait(60)

    done: list[CheckpointName] = []
    saver = Saver(Slow(tmp_path), 0, 1, "run", committed=done.append)
    assert saver.wait() is None
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)})
    saver.save(CheckpointName(1, 1), part)
    assert writing.wait(60)
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


def test_too_little_room_for_two_checkpoints_is_found_at_the_start(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"are free, and each checkpoint takes .*make room"):
        check_disk(small_disk, BYTES, 4)
    check_disk(small_disk, BYTES // 4, 4)
