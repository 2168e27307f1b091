"""The commands that docs/moving.md gives for data and checkpoints on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prs_med.checkpoint.open_place import open_place
from tests.distributed.moving import commands, make_workplace, run_command

pytestmark = pytest.mark.distributed


def test_the_commands_in_their_order(small, bucket: str, tmp_path: Path) -> None:
    make_workplace(tmp_path, small)
    found = commands(on_s3=True)
    assert [command.split("/")[1].split(".py")[0] for command in found] == ["data", "train", "eval"]
    for command in found:
        run_command(command.replace("BUCKET", bucket), small, tmp_path)
    assert open_place(f"s3://{bucket}/checkpoints").checkpoints()
    metrics = json.loads((tmp_path / "runs" / "on_s3" / "metrics.json").read_text())
    assert metrics["all"]["samples"] == 6
    assert metrics["all"]["failures"] == 0
    assert metrics["evaluation"]["data"] == f"s3://{bucket}/posmed"
