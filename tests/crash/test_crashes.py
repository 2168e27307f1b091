"""Runs that are killed at every point of saving; those on S3 are in tests/services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.campaign import Campaign
from tests.crash.processes import Processes


@pytest.mark.timeout(1800)
def test_killed_runs_on_disk_end_like_undisturbed_ones(tmp_path: Path) -> None:
    campaign = Campaign(
        "disk",
        crashes=20,
        all_crashes=200,
        steps=12,
        first=[
            *("before snapshot", "after snapshot", "before block", "within block"),
            *("before os.fsync", "after os.fsync", "before Path.rename", "after Path.rename"),
            *("before may_commit", "before place.commit", "after place.commit"),
            *("before place.report", "after store.delete", "before shutil.rmtree"),
            *("before store.create", "before os.link"),
        ],
        may_damage=True,
    )
    with Processes() as processes:
        campaign.go(processes, tmp_path)
