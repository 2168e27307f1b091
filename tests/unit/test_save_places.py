"""Whose places are: a run claims them by its identity, also where it goes on elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prs_med.checkpoint import ownership
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.ownership import Attempt, last_attempt
from prs_med.config import SettingError, Settings
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.store import StorageAwayError
from prs_med.train import save_places
from prs_med.train.resume import _candidates
from prs_med.train.save_places import Beginning, SavePlaces, _claim
from tests.unit.test_checkpoint_retention import write

URI = "s3://bucket/run"


class OnS3(DirectoryPlace):
    """A folder that is called as one on S3."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store.uri = URI


class Starts:
    """Starts of runs, which claim their places."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.answers = True

    def places(self, folder: str) -> SavePlaces:
        local = DirectoryPlace(self.root / folder / "checkpoints")
        return SavePlaces(local, OnS3(self.root / "s3"), Attempt(0, ""))  # type: ignore[arg-type]

    def start(self, folder: str, **more: Any) -> SavePlaces:
        """One that ends at once."""
        settings = self.settings(folder, **more)
        places = self.places(folder)
        _claim(settings, places, self.said.append)
        places.release()
        return places

    def settings(self, folder: str, **more: Any) -> Settings:
        chosen = {"resume": "auto", "checkpoint_uri": URI, **more}
        return Settings(save_dir=str(self.root / folder), **chosen)

    def last_on_s3(self, settings: Settings) -> Attempt | None:
        if not self.answers:
            raise StorageAwayError(f"{URI}: no answer")
        return last_attempt(DirectoryStore(self.root / "s3"))

    def candidates(self, folder: str, places: SavePlaces) -> tuple[bool, list[tuple[str, Any]]]:
        return _candidates(self.settings(folder), places, self.said.append)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.05)
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    made = Starts(tmp_path)
    monkeypatch.setattr(save_places, "_last_on_s3", made.last_on_s3)
    return made


def test_a_run_goes_on_in_an_empty_folder(starts: Starts) -> None:
    first = starts.start("one", learning_rate=1e-4)
    second = starts.start("another", learning_rate=1e-4, batch_size=3, max_steps=7)
    assert second.attempt == Attempt(2, first.attempt.run)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"learning_rate": 2e-4}, "--learning_rate 0.0001 (here 0.0002)"),
        ({"seed": 7, "lora_rank": 4}, "--seed 0 (here 7), --lora_rank 16 (here 4)"),
    ],
)
def test_another_run_does_not_go_on_with_it(
    starts: Starts, more: dict[str, Any], said: str
) -> None:
    """Such as the next task of a sweep."""
    first = starts.start("one")
    with pytest.raises(SettingError, match="knows nothing of it: give this run a place") as refused:
        starts.start("another", **more)
    assert f"{URI}: holds a run with {said}" in str(refused.value)
    # The refused one has claimed nothing.
    assert starts.start("one").attempt == Attempt(2, first.attempt.run)


def test_a_folder_that_knows_the_run_may_change_its_settings(starts: Starts) -> None:
    first = starts.start("one")
    assert starts.start("one", learning_rate=2e-4).attempt == Attempt(2, first.attempt.run)


def test_so_may_who_names_its_checkpoint(starts: Starts) -> None:
    first = starts.start("one")
    named = f"{URI}/manifests/step-00000001-01.json"
    second = starts.start("another", learning_rate=2e-4, resume=named)
    assert second.attempt == Attempt(2, first.attempt.run)
    assert second.beginning == Beginning(named, 2)


def test_what_a_start_was_told_by_name_holds_until_something_is_saved(starts: Starts) -> None:
    old = DirectoryPlace(starts.root / "old")
    write(old, 5)
    named = old.where(CheckpointName(1, 5))
    starts.start("one", resume=named)
    again = starts.start("one")
    assert again.beginning == Beginning(named, 1)
    assert starts.candidates("one", again) == (True, [(old.store.uri, CheckpointName(1, 5))])
    assert "attempt 1 was to go on from" in starts.said[-1]
    local = again.main
    write(local, 6)
    found = starts.candidates("one", starts.start("one"))
    assert found == (False, [(local.store.uri, CheckpointName(1, 6))])


def test_it_holds_where_older_checkpoints_are_newer(starts: Starts) -> None:
    places = starts.start("one")
    for step in (3, 5):
        write(places.main, step)
    named = places.main.where(CheckpointName(1, 3))
    starts.start("one", resume=named)
    told, found = starts.candidates("one", starts.start("one"))
    assert (told, found) == (True, [(places.main.store.uri, CheckpointName(1, 3))])


def test_s3_that_is_away_at_a_start_is_claimed_later(starts: Starts) -> None:
    first = starts.start("one")
    write(first.main, 5)
    starts.answers = False
    second = starts.start("one")
    assert second.attempt == Attempt(2, first.attempt.run)
    assert "going on from --save_dir, and copying when it answers" in starts.said[-1]
    on_s3 = DirectoryStore(starts.root / "s3")
    assert last_attempt(on_s3) == first.attempt
    second.claim_copies()
    assert last_attempt(on_s3) == second.attempt
    second.claim_copies()
    second.release()


def test_who_went_on_elsewhere_meanwhile_keeps_s3(starts: Starts) -> None:
    write(starts.start("one").main, 5)
    starts.answers = False
    late = starts.start("one")
    starts.answers = True
    starts.start("another")
    with pytest.raises(SupersededError, match="holds attempt 2 of run"):
        late.claim_copies()


@pytest.mark.parametrize("resume", ["auto", None])
def test_without_checkpoints_in_the_folder_s3_has_to_answer(
    starts: Starts, resume: str | None
) -> None:
    starts.answers = False
    with pytest.raises(StorageAwayError):
        starts.start("one", resume=resume)


def test_where_s3_cannot_be_listed_a_run_does_not_begin_anew(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = starts.start("one")

    def away() -> list[CheckpointName]:
        raise StorageAwayError(f"{URI}: no answer")

    monkeypatch.setattr(places.remote, "checkpoints", away)
    with pytest.raises(StorageAwayError):
        starts.candidates("one", places)
    write(places.main, 5)
    told, found = starts.candidates("one", places)
    assert (told, [name.step for _, name in found]) == (False, [5])
    assert "looking for checkpoints in --save_dir alone" in starts.said[-1]
