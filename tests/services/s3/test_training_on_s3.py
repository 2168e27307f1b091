"""A run that keeps its checkpoints on S3 goes on from there when its machines are gone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prs_med.checkpoint.open_place import open_place
from prs_med.checkpoint.reader import CheckpointReader
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import loss_curve
from tests.short_training import short

pytestmark = pytest.mark.distributed

STEPS = 4
STOPPED_AT = 2


def test_runs_go_on_from_their_copies(small, bucket: str, tmp_path: Path) -> None:
    wanted = short(small.arguments(), "--max_steps", str(STEPS), "--resume", "auto")
    copied, direct = f"s3://{bucket}/copied", f"s3://{bucket}/direct"
    to_copy = [*wanted, "--checkpoint_uri", copied]
    to_s3 = [*wanted, "--checkpoint_uri", direct]
    # A folder that each process has for itself holds no checkpoints: they go to S3 at once.
    own = tmp_path / "own_{rank}"
    run_jobs(
        [
            Job(tmp_path / "whole", wanted),
            Job(tmp_path / "first", to_copy, stop_after=STOPPED_AT),
            Job(own, to_s3, stop_after=STOPPED_AT),
        ],
        2,
        tmp_path,
    )
    assert [name.step for name in open_place(copied).checkpoints()][-1] == STOPPED_AT
    assert [name.step for name in open_place(direct).checkpoints()][-1] == STOPPED_AT
    named = f"{copied}/manifests/{open_place(copied).checkpoints()[-1]}.json"
    for folder in ("first", "own_0", "own_1"):
        shutil.rmtree(tmp_path / folder)
    # The best that the run has had is not what is gone on from.
    place = open_place(copied)
    first = place.checkpoints()[0]
    manifest = CheckpointReader(place, first).manifest
    state = {**manifest.state, "scores": {"val_dice": 2.0}}
    place.amend(first, replace(manifest, state=state).dumps())

    run_jobs(
        [
            Job(tmp_path / "named", [*wanted, "--resume", named]),
            Job(tmp_path / "elsewhere", to_copy),
            Job(own, to_s3),
            Job(tmp_path / "again", to_copy),
            Job(
                tmp_path / "another",
                [*to_copy, "--learning_rate", "3e-4"],
                error_file=tmp_path / "another.txt",
            ),
        ],
        2,
        tmp_path,
    )
    said = (tmp_path / "another.txt").read_text()
    assert (
        f"--checkpoint_uri {copied}: holds a run with --learning_rate 0.0001 (here 0.0003)" in said
    )
    for run in ("elsewhere", "again"):  # the latter complete when it begins
        results = {
            kind: json.loads((tmp_path / run / kind / "model.json").read_text())["results"]["step"]
            for kind in ("best", "final")
        }
        assert results == {"best": 0, "final": STEPS}
    expected = loss_curve(tmp_path / "whole")
    for run in ("named", "elsewhere", "own_0"):
        assert loss_curve(tmp_path / run) == expected
    for uri, attempt in ((copied, 3), (direct, 2)):
        place = open_place(uri)
        names = place.checkpoints()
        assert (names[-1].attempt, names[-1].step) == (attempt, STEPS)
        for name in names:
            CheckpointReader(place, name).verify()
    assert not (tmp_path / "own_1" / "checkpoints").is_dir() or not list(
        (tmp_path / "own_1" / "checkpoints").glob("step-*")
    )
