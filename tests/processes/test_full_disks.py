"""Disks without room, read-only folders and files that may not grow cost one checkpoint at most."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.preflight import check_disk, check_store
from prs_med.storage.store import StorageError
from tests.programs import succeed
from tests.unit.checkpoint_saves import BYTES, CUTS, STATE, check_saved, drafts, save_all, savers
from tests.unit.checkpoint_states import snapshots


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
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    succeed("tests.processes.limited_saver", tmp_path)
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


def test_too_little_room_for_two_checkpoints_is_found_at_the_start(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"are free, and each checkpoint takes .*make room"):
        check_disk(small_disk, BYTES, 4)
    check_disk(small_disk, BYTES // 4, 4)
