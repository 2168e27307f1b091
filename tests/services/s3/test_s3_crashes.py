"""Runs that are killed while they save to S3, or to a folder that is mirrored to S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.campaign import Campaign
from tests.crash.processes import Processes
from tests.services.s3.ceph import CephGateway


@pytest.mark.timeout(1800)
def test_killed_runs_on_s3_end_like_undisturbed_ones(
    bucket: str, ceph: CephGateway, tmp_path: Path
) -> None:
    campaign = Campaign(
        "s3",
        crashes=6,
        all_crashes=50,
        steps=6,
        first=[
            *("before PUT files", "after PUT files", "before PUT manifests", "after PUT manifests"),
            *("after DELETE manifests", "after DELETE files", "after PUT reports"),
        ],
        s3=f"s3://{bucket}/runs",
        disk=False,
        environment=ceph.environment(),
    )
    with Processes() as processes:
        campaign.go(processes, tmp_path)


@pytest.mark.timeout(1800)
def test_killed_runs_on_disk_with_a_mirror_on_s3_end_like_undisturbed_ones(
    bucket: str, ceph: CephGateway, tmp_path: Path
) -> None:
    campaign = Campaign(
        "mirror",
        crashes=3,
        all_crashes=50,
        steps=6,
        first=["after PUT files", "before PUT manifests", "after PUT manifests"],
        s3=f"s3://{bucket}/runs",
        environment=ceph.environment(),
    )
    with Processes() as processes:
        campaign.go(processes, tmp_path)
