"""The last checkpoints and the best one are kept; the others go, and so do leftovers of crashes."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.manifest import MANIFEST, CheckpointName
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.retention import SWEEP_SECONDS, Pruner, Retention, scores_of
from prs_med.storage.store import StorageError
from tests.crash.cutting import zero2
from tests.unit.checkpoint_states import Further, State, save, snapshots

STATE = State.random({"mllm": [[3]]})
KEEP_TWO = Retention(2, "val_dice", higher_is_better=True)
SCORES = st.one_of(st.floats(0, 1), st.just(math.nan), st.none())


def write(place: DirectoryPlace, step: int, score: float | None = None, attempt: int = 1) -> None:
    scores = {} if score is None else {"val_dice": score}
    further = Further(state={"scores": scores})
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)}, further)
    assert not save(place, [part], CheckpointName(attempt, step)).error


def steps(place: DirectoryPlace) -> list[int]:
    return [name.step for name in place.checkpoints()]


@given(st.dictionaries(st.builds(CheckpointName, st.integers(1, 3), st.integers(0, 50)), SCORES),
       st.integers(1, 4), st.booleans())  # fmt: skip
def test_what_is_kept(scores: dict[CheckpointName, float | None], last: int, higher: bool) -> None:
    found = {n: {} if s is None else {"val_dice": s, "other": 9.0} for n, s in scores.items()}
    retention = Retention(last, "val_dice", higher)
    superfluous = retention.superfluous(found)
    assert superfluous == sorted(superfluous)
    kept = set(scores) - set(superfluous)
    rated = {n: s for n, s in scores.items() if s is not None and not math.isnan(s)}
    best = retention.best(found)
    if rated:
        wanted = (max if higher else min)(rated.values())
        assert best == max(name for name, score in rated.items() if score == wanted)
        assert kept == {*sorted(scores)[-last:], best}
    else:
        assert best is None
        assert kept == set(sorted(scores)[-last:])


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    pruner = Pruner(place, KEEP_TWO)
    for step, score in ((1, 0.1), (2, 0.9), (3, math.nan), (4, None), (5, 0.3), (6, 0.2)):
        write(place, step, score)
        pruner.prune()
    assert steps(place) == [2, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002-01", "step-00000005-01", "step-00000006-01"]  # fmt: skip
    write(place, 3, 0.5, attempt=2)
    Pruner(place, KEEP_TWO).prune()
    assert list(map(str, place.checkpoints())) == [
        "step-00000002-01", "step-00000006-01", "step-00000003-02"]  # fmt: skip


def test_a_removal_that_was_cut_short_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = DirectoryPlace(tmp_path)
    write(place, 1)
    write(place, 2)

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            place.remove(CheckpointName(1, 1))
    assert (tmp_path / "step-00000001-01").exists()
    assert steps(place) == [2]
    place.sweep(SWEEP_SECONDS)
    assert (tmp_path / "step-00000001-01").exists()
    place.sweep(0)
    assert not (tmp_path / "step-00000001-01").exists()
    assert steps(place) == [2]


def test_nothing_is_removed_when_the_checkpoints_cannot_be_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unlistable(DirectoryPlace):
        def checkpoints(self) -> list[CheckpointName]:
            raise StorageError("the list: cannot be read")

    place = DirectoryPlace(tmp_path)
    for step in range(4):
        write(place, step)
    Pruner(Unlistable(tmp_path), KEEP_TWO).prune()
    assert steps(place) == [0, 1, 2, 3]
    assert caplog.messages == ["old checkpoints were not removed: the list: cannot be read"]


def test_a_damaged_manifest_is_no_candidate_and_goes_when_it_is_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = DirectoryPlace(tmp_path)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.2)):
        write(place, step, score)
    (Path(place.where(CheckpointName(1, 2))) / MANIFEST).write_bytes(b"{}")
    pruner = Pruner(place, KEEP_TWO)
    pruner.prune()
    assert steps(place) == [2, 3]
    write(place, 4, 0.1)
    write(place, 5, 0.1)
    pruner.prune()
    assert steps(place) == [3, 4, 5]
    damaged = place.where(CheckpointName(1, 2))
    assert caplog.messages == [f"{damaged}: is damaged: its own checksum is wrong"]


def test_one_that_cannot_be_removed_does_not_keep_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(DirectoryPlace):
        def remove(self, name: CheckpointName) -> None:
            if name.step == 1:
                raise StorageError("step 1: stays")
            super().remove(name)

    place = Stubborn(tmp_path)
    for step in range(6):
        write(place, step)
    Pruner(place, KEEP_TWO).prune()
    assert steps(place) == [1, 4, 5]
    assert caplog.messages == ["an old checkpoint was not removed: step 1: stays"]


def test_manifests_are_read_once(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    write(place, 1, 0.5)
    known: dict = {}
    first = scores_of(place, known)
    (Path(place.where(CheckpointName(1, 1))) / MANIFEST).write_bytes(b"")
    assert scores_of(place, known) == first == {CheckpointName(1, 1): {"val_dice": 0.5}}
    place.remove(CheckpointName(1, 1))
    assert scores_of(place, known) == {}


def test_scores_that_a_checkpoint_is_given_later_are_seen(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    write(place, 1)
    known: dict = {}
    name = CheckpointName(1, 1)
    before = scores_of(place, known)[name]
    manifest = CheckpointReader(place, name).manifest
    state = {**manifest.state, "scores": {"val_dice": 0.5}}
    place.amend(name, replace(manifest, state=state).dumps())
    assert not before.get("val_dice")
    assert scores_of(place, known) == {name: {"val_dice": 0.5}}


def test_one_that_is_removed_while_they_are_read_has_none(tmp_path: Path) -> None:
    class Listing(DirectoryPlace):
        def checkpoints(self) -> list[CheckpointName]:
            return [CheckpointName(1, 0), *super().checkpoints()]

    write(DirectoryPlace(tmp_path), 1, 0.5)
    assert list(scores_of(Listing(tmp_path))) == [CheckpointName(1, 1)]


def test_the_best_come_first_and_of_equals_the_newest() -> None:
    scores = {CheckpointName(1, s): {"val_dice": v} for s, v in enumerate([0.5, 0.9, 0.5, None])}
    assert [name.step for name in KEEP_TWO.ranked(scores)] == [1, 2, 0]


def test_a_pruner_reads_them_once_too(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    write(place, 1, 0.5)
    pruner = Pruner(place, KEEP_TWO)
    assert pruner.scores() == {CheckpointName(1, 1): {"val_dice": 0.5}}
    (Path(place.where(CheckpointName(1, 1))) / MANIFEST).write_bytes(b"")
    assert pruner.scores() == {CheckpointName(1, 1): {"val_dice": 0.5}}


def test_a_checkpoint_that_says_nothing_of_scores_has_none(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    (part,) = snapshots(STATE, {"mllm": zero2(STATE.parameters["mllm"], 1)}, Further(state={}))
    assert not save(place, [part], CheckpointName(1, 1)).error
    assert scores_of(place) == {CheckpointName(1, 1): {}}


def test_only_old_leftovers_are_swept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    place = DirectoryPlace(tmp_path)
    write(place, 1)
    place.store.write("attempts/000001.json", b"{}")
    old, new = CheckpointName(1, 2), CheckpointName(1, 3)
    for name in (old, new):
        (place.begin(name) / "shard").write_bytes(b"1")
        place.report(name, 0, b"{}")
    for folder in (tmp_path, tmp_path / "attempts"):
        for name in ("old", "new"):
            (folder / f".unfinished-{name}").write_bytes(b"")
    long_ago = time.time() - SWEEP_SECONDS - 60
    aged = [tmp_path / f".draft-{old}", tmp_path / str(CheckpointName(1, 1))]
    for path in [*aged, *(file for folder in aged for file in folder.rglob("*")),
                 *tmp_path.rglob(".unfinished-old")]:  # fmt: skip
        os.utime(path, (long_ago, long_ago))
    # One late file shows that a draft is still written to.
    Pruner(place, KEEP_TWO).clear_up()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")
                  if not p.is_dir() and "step-00000001-01/" not in p.as_posix()) == [
        f".draft-{new}/.report-00000", f".draft-{new}/shard", ".unfinished-new",
        "attempts/.unfinished-new", "attempts/000001.json"]  # fmt: skip
    assert steps(place) == [1]
    assert caplog.messages == []


def test_a_draft_that_is_still_written_to_is_not_swept(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    draft = place.begin(CheckpointName(1, 2))
    (draft / "first").write_bytes(b"1")
    (draft / "second").write_bytes(b"1")
    long_ago = time.time() - 2 * SWEEP_SECONDS
    for path in (draft / "first", draft):
        os.utime(path, (long_ago, long_ago))
    Pruner(place, KEEP_TWO).clear_up()
    assert (draft / "first").exists()


def test_what_a_killed_run_did_not_remove_goes_at_the_next_start(tmp_path: Path) -> None:
    place = DirectoryPlace(tmp_path)
    for step in range(4):
        write(place, step)
    Pruner(place, KEEP_TWO).clear_up()
    assert steps(place) == [2, 3]
