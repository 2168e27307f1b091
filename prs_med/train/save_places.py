"""Where a run saves: a folder, and a copy on S3; and the right to save there."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.ownership import Attempt, Ownership, claim, last_attempt
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.preflight import check_store
from prs_med.checkpoint.s3_place import S3Place
from prs_med.config import SettingError, Settings
from prs_med.data.order import Rank
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageAwayError, StorageError, Store
from prs_med.train import distributed
from prs_med.train.resumed_settings import check_same_run, identity

_PREFLIGHT_PATIENCE = 30.0
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
AUTO = "auto"
"""``--resume`` for the newest checkpoint."""

_logger = logging.getLogger("prs_med")


@dataclass(frozen=True)
class Beginning:
    """What a start of a run was told to go on from by name."""

    checkpoint: str
    """As the user named it."""
    attempt: int
    """The start that was told so: what it and later ones have saved comes behind it."""


@dataclass
class SavePlaces:
    """Where a run saves. Without a folder that all processes see, S3 alone."""

    local: DirectoryPlace | None
    remote: S3Place | None
    attempt: Attempt
    beginning: Beginning | None = None
    owned: list[Ownership] = field(default_factory=list)
    """On process 0."""
    unclaimed: Store | None = None
    """S3, where it did not answer at the start; on process 0."""

    @property
    def main(self) -> Place:
        """Where checkpoints are complete first."""
        place = self.local or self.remote
        assert place is not None, "one of them is required"
        return place

    def check(self) -> None:
        """Make sure that this attempt is still the newest.

        Raises:
            SupersededError: it is not.
        """
        self.owned[0].check()

    def claim_copies(self) -> None:
        """Claim S3 for the copies of checkpoints, if that was not possible at the start.

        Raises:
            SupersededError: another run is there, or this one was gone on with elsewhere.
            StorageError: it still does not answer.
        """
        if self.unclaimed is None:
            return
        last = last_attempt(self.unclaimed)
        if last is not None and (
            last.run != self.attempt.run or last.number >= self.attempt.number
        ):
            raise SupersededError(
                f"{self.unclaimed.uri}: holds attempt {last.number} of run {last.run}, and this is "
                f"attempt {self.attempt.number} of run {self.attempt.run}"
            )
        number, about = self.attempt.number - 1, self.attempt.about
        self.owned.append(
            claim(self.unclaimed, self.attempt.run, number, _logger.info, about=about)
        )
        self.unclaimed = None

    def release(self) -> None:
        """Let others save there."""
        for ownership in self.owned:
            ownership.release()


def open_places(settings: Settings, rank: Rank, say: Callable[[str], None]) -> SavePlaces:
    """Open the places that the settings name, and claim them for this run.

    Raises:
        SettingError: they hold another run, or cannot be used together.
        StorageError: they cannot be used.
    """
    folder = Path(settings.save_dir) / CHECKPOINTS
    local = DirectoryPlace(folder) if _all_see(folder, rank) else None
    if local is None and not settings.checkpoint_uri:
        raise SettingError(
            f"--save_dir {settings.save_dir} is not the same folder on all machines: name one "
            "that is shared, or S3 (--checkpoint_uri)"
        )
    remote = (
        S3Place(S3Store(settings.checkpoint_uri), Path(settings.save_dir) / ".staging")
        if settings.checkpoint_uri
        else None
    )
    places = SavePlaces(local, remote, Attempt(0, ""))

    def claim_all() -> tuple[Attempt, Beginning | None]:
        try:
            _claim(settings, places, say)
        except SupersededError as error:
            raise SettingError(str(error)) from None
        return places.attempt, places.beginning

    places.attempt, places.beginning = distributed.once(claim_all)
    if remote is not None:
        attempt = places.attempt
        remote.writer = f"{attempt.run}-{attempt.number:02d}-{rank.index:05d}"
    return places


def _claim(settings: Settings, places: SavePlaces, say: Callable[[str], None]) -> None:
    """Claim the places on process 0."""
    last = {}
    if places.local is not None:
        check_store(places.local.store)
        last[places.local.store] = last_attempt(places.local.store)
    if places.remote is not None:
        try:
            last[places.remote.store] = _last_on_s3(settings)
        except StorageAwayError as error:
            if places.local is None or not (settings.resume and places.local.checkpoints()):
                raise
            say(f"WARNING: {error}; going on from --save_dir, and copying when it answers")
            places.unclaimed = places.remote.store
    found = {store.uri: attempt for store, attempt in last.items() if attempt is not None}
    if found and not settings.resume:
        raise SettingError(
            f"{next(iter(found))} already holds a run: go on with it (--resume auto), or give "
            "another folder"
        )
    if not found and (Path(settings.save_dir) / METRICS).exists():
        raise SettingError(
            f"--save_dir {settings.save_dir} already holds a run that cannot be gone on with: give "
            "another folder, or remove it"
        )
    _check_identity(settings, places, found)
    runs = {attempt.run for attempt in found.values() if attempt.run}
    run = runs.pop() if runs else uuid.uuid4().hex
    after = max((attempt.number for attempt in found.values()), default=0)
    places.beginning = _beginning(settings, found.values(), after + 1)
    about: dict[str, Any] = {"settings": identity(settings)}
    if places.beginning is not None:
        about["beginning"] = asdict(places.beginning)
    places.attempt = Attempt(after + 1, run, about)
    try:
        for store in last:
            places.owned.append(claim(store, run, after, say, about=about))
    except (SupersededError, StorageError):
        places.release()
        raise


def _last_on_s3(settings: Settings) -> Attempt | None:
    # Less patience than while training: a wrong name shows now.
    store = S3Store(settings.checkpoint_uri or "", _PREFLIGHT_PATIENCE)
    check_store(store)
    return last_attempt(store)


def _check_identity(settings: Settings, places: SavePlaces, found: Mapping[str, Attempt]) -> None:
    """Make sure that all places hold this very run, if any.

    Raises:
        SettingError: they do not.
    """
    runs = {attempt.run for attempt in found.values() if attempt.run}
    if len(runs) > 1:
        raise SettingError(
            f"--save_dir and --checkpoint_uri hold different runs ({', '.join(sorted(runs))}): "
            "give those of one run"
        )
    uri = places.remote.store.uri if places.remote else ""
    is_named = (settings.resume or "").startswith(f"{uri}/")
    if list(found) == [uri] and not is_named:
        # Where nothing here knows the run, its settings have to tell whether this is the same one.
        check_same_run(found[uri].about.get("settings", {}), settings, uri)


def _beginning(settings: Settings, found: Iterable[Attempt], attempt: int) -> Beginning | None:
    if settings.resume and settings.resume != AUTO:
        return Beginning(settings.resume, attempt)
    # An earlier start may have ended before it saved anything.
    told = [Beginning(**one.about["beginning"]) for one in found if "beginning" in one.about]
    return max(told, key=lambda one: one.attempt, default=None)


def _all_see(folder: Path, rank: Rank) -> bool:
    """Whether the folder is one and the same for all processes."""

    def leave_a_mark() -> str:
        mark = f".seen-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / mark).touch()
        except OSError as error:
            raise StorageError(f"{folder}: {error.strerror}") from error
        return mark

    mark = folder / distributed.once(leave_a_mark)
    seen = distributed.all_agree(mark.exists())
    if rank.index == 0:
        mark.unlink()
    return seen
