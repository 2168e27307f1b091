"""Where a run saves: a folder, and a copy on S3; and the right to save there."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.ownership import Attempt, Ownership, claim, last_attempt
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.preflight import check_store
from prs_med.checkpoint.s3_place import S3Place
from prs_med.config import SettingError, Settings
from prs_med.data.order import Rank
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError
from prs_med.train import distributed

_PREFLIGHT_PATIENCE = 30.0
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"


@dataclass
class SavePlaces:
    """Where a run saves. Without a folder that all processes see, S3 alone."""

    local: DirectoryPlace | None
    remote: S3Place | None
    attempt: Attempt
    owned: list[Ownership] = field(default_factory=list)
    """On process 0."""

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
    owned: list[Ownership] = []

    def claim_all() -> Attempt:
        try:
            owned.extend(_claim(settings, local, remote, say))
        except SupersededError as error:
            raise SettingError(str(error)) from None
        return owned[0].attempt

    attempt = distributed.once(claim_all)
    if remote is not None:
        remote.writer = f"{attempt.run}-{attempt.number:02d}-{rank.index:05d}"
    return SavePlaces(local, remote, attempt, owned)


def _claim(
    settings: Settings,
    local: DirectoryPlace | None,
    remote: S3Place | None,
    say: Callable[[str], None],
) -> list[Ownership]:
    stores = []
    if local is not None:
        check_store(local.store)
        stores.append(local.store)
    if remote is not None:
        # Less patience than while training: a wrong name shows now.
        check_store(S3Store(settings.checkpoint_uri or "", _PREFLIGHT_PATIENCE))
        stores.append(remote.store)
    last = {}
    for store in stores:
        found = last_attempt(store)
        if found is None:
            continue
        if not settings.resume:
            raise SettingError(
                f"{store.uri} already holds a run: go on with it (--resume auto), or give another "
                "folder"
            )
        last[store.uri] = found
    if not last and (Path(settings.save_dir) / METRICS).exists():
        raise SettingError(
            f"--save_dir {settings.save_dir} already holds a run that cannot be gone on with: give "
            "another folder, or remove it"
        )
    runs = {found.run for found in last.values()}
    if len(runs) > 1:
        raise SettingError(
            f"--save_dir and --checkpoint_uri hold different runs ({', '.join(sorted(runs))}): "
            "give those of one run"
        )
    run = runs.pop() if runs else uuid.uuid4().hex
    after = max((found.number for found in last.values()), default=0)
    owned: list[Ownership] = []
    try:
        for store in stores:
            owned.append(claim(store, run, after, say))
    except (SupersededError, StorageError):
        for ownership in owned:
            ownership.release()
        raise
    return owned


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
