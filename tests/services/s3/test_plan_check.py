"""``launch/plan.py --check`` against S3 servers."""

from __future__ import annotations

import time

import pytest

from prs_med.config import Settings
from prs_med.plan.findings import Verdict
from prs_med.plan.inputs_check import check_inputs
from prs_med.plan.storage_check import check_clock, check_writing
from prs_med.storage.s3 import S3Store
from tests.patience import patience
from tests.services.s3.s3_places import Server


def test_a_good_server_passes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(server.uri, patience=patience(5))
    found = [*check_writing("--checkpoint_uri", store), *check_clock(store)]
    assert [finding.verdict for finding in found] == [Verdict.PASS] * 6
    assert not server.keys()
    monkeypatch.setattr(S3Store, "server_time", lambda _: time.time() + 120)
    (clock,) = check_clock(store)
    assert clock.verdict is Verdict.FAIL
    assert clock.detail == "120 s behind the S3 server's"


def test_a_wrong_bucket_fails_and_shows_no_secret(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    store = S3Store("s3://no-such-bucket-here/runs", patience=patience(5))
    (refused,) = check_writing("--checkpoint_uri", store)
    (missing, *_) = check_inputs(Settings(data="s3://no-such-bucket-here/data"))
    for finding in (refused, missing):
        assert finding.verdict is Verdict.FAIL
        assert "no-such-bucket-here" in finding.detail
        assert "not-to-be-shown" not in finding.line()
