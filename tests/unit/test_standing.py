"""Where a run stands, as the batch script asks, also while S3 is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.slurm import standing
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.storage.store import StorageAwayError, StorageError
from tests.unit.checkpoint_saves import CUTS, STATE, save_all, savers
from tests.unit.checkpoint_states import snapshots

S3 = "s3://bucket/a"


@pytest.fixture
def stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """What the script gets with S3 failing in a way: the status, and the first line."""

    def ask(error: StorageError) -> tuple[int, str]:
        class Failing(DirectoryPlace):
            def checkpoints(self) -> list:
                raise error

        def opened(uri: str) -> DirectoryPlace:
            return Failing(Path(uri)) if uri == S3 else DirectoryPlace(Path(uri))

        monkeypatch.setattr(standing, "open_place", opened)
        status = standing.main(["--save_dir", str(tmp_path), "--checkpoint_uri", S3])
        out, err = capsys.readouterr()
        return status, (out or err).strip()

    return ask


AWAY, REFUSED = StorageAwayError(f"{S3}: 503"), StorageError(f"{S3}: 403")


def test_what_the_folder_holds_counts_while_s3_is_away(stands, tmp_path: Path) -> None:
    save_all(savers(DirectoryPlace(tmp_path / "checkpoints")), 7, snapshots(STATE, CUTS))
    assert stands(AWAY) == (0, "7")
    assert stands(REFUSED) == (2, f"error: {S3}: 403")


def test_without_any_the_job_is_to_be_started_again_later(stands) -> None:
    assert stands(AWAY) == (75, f"error: {S3}: 503")
    assert stands(REFUSED) == (2, f"error: {S3}: 403")
