"""Servers that are odd or strict: what they cannot do or do not allow is told, and what is not ours
stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import boto3
import botocore.exceptions
import pytest

from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.ownership import claim
from prs_med.checkpoint.preflight import check_store
from prs_med.checkpoint.s3_place import S3Place
from prs_med.data.dataset.build import REPORTS
from prs_med.data.dataset.check import check
from prs_med.data.phantoms import write_phantoms
from prs_med.plan.findings import Verdict
from prs_med.plan.storage_check import check_writing
from prs_med.programs import data
from prs_med.storage import s3
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageAwayError, StorageError
from tests.patience import patience
from tests.services.s3.fault_proxy import Fault, Request
from tests.services.s3.s3_places import Server, check_saved, parts
from tests.small_dataset import build_small
from tests.unit.checkpoint_states import save

by_moto = pytest.mark.parametrize("server", ["moto"], indirect=True)
"""For what the server has no part in: it starts at once."""
FIVE_MIB = 5 << 20
"""The smallest part that servers take."""


def store_of(server: Server, seconds: float = 10) -> S3Store:
    return S3Store(server.uri, patience=patience(seconds))


def uploads(server: Server) -> list[str]:
    """The keys of all uploads of the bucket that are not completed."""
    bucket = server.uri.split("/")[2]
    found = server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [upload["Key"] for upload in found]


def once(fault: Fault, when: Callable[[Request], bool]) -> Callable[[Request], Fault | None]:
    """A fault for the first request that is such."""
    left = [fault]
    return lambda request: left.pop() if left and when(request) else None


def test_where_tags_are_no_md5_objects_are_read_back(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 1000)
    store = store_of(server)
    server.proxy.faults = lambda request: Fault(etag="0" * 32) if request.method == "PUT" else None
    store.write("written", b"1")
    store.write_file("copied", tmp_path / "file")
    assert store.create("created", b"2")
    assert not store.create("created", b"3")
    assert store.read("copied") == b"content" * 1000
    check_store(store)
    assert not save(server.places(), parts(1), CheckpointName(1, 1)).error
    check_saved(server.places()[0], [1])


def test_damage_on_the_way_up_is_found_where_tags_are_no_md5(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    store, damaged = store_of(server), [Fault(etag="0" * 32, upload_flip_at=0)]
    server.proxy.faults = lambda request: (
        (damaged.pop() if damaged else Fault(etag="0" * 32)) if request.method == "PUT" else None
    )
    assert store.create("name", b"bytes")
    # Ceph compares by itself.
    noticed = ("other bytes arrived than were sent; trying", "XAmzContentSHA256Mismatch; trying")
    assert any(words in caplog.text for words in noticed)
    assert store.read("name") == b"bytes"


@by_moto
@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (405, "X")]
)
def test_a_server_that_cannot_commit_is_told_in_seconds(
    server: Server, status: int, code: str
) -> None:
    store = store_of(server, 120)
    server.proxy.faults = lambda request: (
        Fault(status=status, code=code) if "if-none-match" in request.headers else None
    )
    began = time.monotonic()
    with pytest.raises(StorageError, match=f"answers {status} {code} to a write on cond") as raised:
        check_store(store)
    assert not isinstance(raised.value, StorageAwayError)
    (finding,) = check_writing("--checkpoint_uri", store)
    assert finding.verdict is Verdict.FAIL
    assert "checkpoints cannot be kept there; use a server that can" in finding.detail
    assert time.monotonic() - began < patience(20)


@by_moto
@pytest.mark.parametrize(
    ("right", "method", "ask"),
    [
        ("s3:GetObject", "GET", lambda store: store.read("x")),
        ("s3:PutObject", "PUT", lambda store: store.write("x", b"1")),
        ("s3:ListBucket", "GET", lambda store: store.names("x")),
        ("s3:DeleteObject", "DELETE", lambda store: store.delete("x")),
    ],
)
def test_the_right_that_is_missing_is_named(
    server: Server, right: str, method: str, ask: Callable[[S3Store], object]
) -> None:
    server.proxy.faults = lambda request: Fault(status=403, code="AccessDenied")
    with pytest.raises(StorageError, match=f"403 AccessDenied; .*the right {right}"):
        ask(store_of(server, 120))
    assert [request.method for request in server.proxy.log] == [method]


def test_objects_that_stand_for_folders_are_no_files(server: Server, tmp_path: Path) -> None:
    bucket = server.uri.split("/")[2]
    markers = ["", "manifests/", "attempts/", "files/", "reports/", "data/", f"{REPORTS}/"]
    keys = [*(f"runs/a/{marker}" for marker in markers), "runs/a/data_$folder$"]
    for key in keys:
        server.client.put_object(Bucket=bucket, Key=key, Body=b"")
    (place,) = server.places(1)
    assert place.store.names() == []
    claim(place.store, "run", 0, print).release()
    assert not save(server.places(), parts(1), CheckpointName(1, 1)).error
    place.sweep(0)
    check_saved(place, [1])
    write_phantoms(tmp_path, {"train": 4}, size=32, seed=0)
    build_small(tmp_path, S3Store(f"{server.uri}/data"), 50_000, 300_000)
    assert check(S3Store(f"{server.uri}/data"), 1, show_progress=False).errors == 0
    assert set(markers) - {""} < set(server.keys())


@by_moto
def test_files_of_others_are_not_swept(server: Server) -> None:
    (place,) = server.places(1)
    others = ["files/README.txt", "files/abc.upload", "reports/2026.pdf", "reports/a/00000.json"]
    for name in others:
        place.store.write(name, b"not ours")
    place.store.write(f"files/{'0' * 64}", b"of a save that was killed")
    place.store.write("reports/step-00000001-01/00000.json", b"{}")
    place.sweep(0)
    assert server.keys() == sorted(others)


def test_large_files_go_in_parts_and_leave_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_ONE_PUT", FIVE_MIB)
    monkeypatch.setattr(s3, "_PART", FIVE_MIB)
    content = bytes(range(256)) * (13 << 12)
    (tmp_path / "large").write_bytes(content)
    server.proxy.faults = once(Fault(reset=True), lambda request: "partNumber=2" in request.query)
    store = store_of(server, 30)
    store.write_file("large", tmp_path / "large")
    assert store.read("large") == content
    assert (server.keys(), uploads(server)) == (["large"], [])
    server.proxy.faults = lambda request: (
        Fault(status=403, code="AccessDenied") if "partNumber=2" in request.query else None
    )
    with pytest.raises(StorageError, match="s3:PutObject"):
        store.write_file("more", tmp_path / "large")
    assert (server.keys(), uploads(server)) == (["large"], [])


def test_only_uploads_that_are_known_for_ours_are_ended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_ONE_PUT", FIVE_MIB)
    (tmp_path / "large").write_bytes(b"x" * (FIVE_MIB + 1))
    bucket, store = server.uri.split("/")[2], store_of(server)
    theirs = ["colleague/backup.tar", "runs/a/data/large", "runs/a/data/x.upload"]
    for key in theirs:
        server.client.create_multipart_upload(Bucket=bucket, Key=key)

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as kill:
        kill.setattr(S3Store, "_put_parts", killed)
        kill.setattr(s3, "_as_far_as_possible", lambda clean_up: None)
        with pytest.raises(SystemExit):
            store.write_file("data/large", tmp_path / "large")
    assert len(uploads(server)) == 4
    for key in ("data/x.upload", "data/y.upload"):
        store.write(key, b"a file that happens to be called so")
    server.proxy.faults = lambda request: (
        Fault(status=403, code="AccessDenied") if request.query == "uploads" else None
    )
    store.sweep("data")
    assert sorted(uploads(server)) == theirs
    assert server.keys() == ["data/x.upload", "data/y.upload"]


@by_moto
def test_a_dataset_is_built_where_nothing_may_be_removed(server: Server, tmp_path: Path) -> None:
    write_phantoms(tmp_path, {"train": 4}, size=32, seed=0)
    server.proxy.faults = lambda request: (
        Fault(status=403, code="AccessDenied") if request.method == "DELETE" else None
    )
    for _ in range(2):
        built = build_small(tmp_path, store_of(server), 50_000, 300_000)
        (left,) = built.left
        assert "the right s3:DeleteObject" in left
    assert check(store_of(server), 1, show_progress=False).errors == 0


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("127.0.0.1:9000", "is written with http:// or https://"),
        ("localhost", "is written with http:// or https://"),
        ("http://127.0.0.1:9000/bucket", "ends in /bucket, but the bucket is named here"),
        ("https://key:secret@host/s3/bucket/", r"ends in /s3/bucket, but the bucket"),
    ],
)
@pytest.mark.usefixtures("no_aws_settings")
def test_endpoints_that_are_none_are_told_at_once(
    endpoint: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=says) as raised:
        S3Store("s3://bucket/x", patience=120).read("y")
    assert str(raised.value).startswith("s3://bucket/x: ")
    assert "secret" not in str(raised.value)


@by_moto
def test_the_requester_pays_where_the_environment_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(server).write("x", b"1")
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert store_of(server).read("x") == b"1"
    first, second = server.proxy.log
    assert "x-amz-request-payer" not in first.headers
    assert second.headers["x-amz-request-payer"] == "requester"
    monkeypatch.setenv("AWS_REQUEST_PAYER", "me")
    with pytest.raises(StorageError, match="AWS_REQUEST_PAYER me: allowed is requester"):
        store_of(server).read("x")


def refuse_anonymous(server: Server) -> None:
    """Also by moto, which takes any request."""
    server.proxy.faults = lambda request: (
        None if "authorization" in request.headers else Fault(status=403, code="AccessDenied")
    )


@by_moto
def test_credentials_that_fail_once_do_not_leave_a_process_without(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_anonymous(server)
    found, answers = boto3.Session.get_credentials, [None]
    monkeypatch.setattr(
        boto3.Session, "get_credentials", lambda self: answers.pop() if answers else found(self)
    )
    store = store_of(server, 30)
    store.write("x", b"1")
    assert store.read("x") == b"1"
    assert not answers
    signed = ["authorization" in request.headers for request in server.proxy.log]
    assert signed == [False, True, True]


@by_moto
def test_without_credentials_a_refusal_is_told_soon(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_anonymous(server)
    monkeypatch.setattr(boto3.Session, "get_credentials", lambda self: None)
    with pytest.raises(StorageError, match="without credentials: none were found") as raised:
        store_of(server, 300).read("x")
    assert not isinstance(raised.value, StorageAwayError)
    assert len(server.proxy.log) == 5


@by_moto
@pytest.mark.parametrize(
    "failure",
    [
        botocore.exceptions.CredentialRetrievalError(provider="role", error_msg="timed out"),
        botocore.exceptions.MetadataRetrievalError(error_msg="timed out"),
    ],
)
def test_credentials_that_cannot_be_fetched_for_now_are_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    found, failures = boto3.Session.get_credentials, [failure, failure]

    def fetch(session: boto3.Session) -> object:
        if failures:
            raise failures.pop()
        return found(session)

    monkeypatch.setattr(boto3.Session, "get_credentials", fetch)
    store = store_of(server, 30)
    store.write("x", b"1")
    assert store.read("x") == b"1"


@by_moto
def test_credentials_that_have_expired_are_read_afresh(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(server, 30)
    store.write("x", b"1")
    made, found = [0], boto3.Session.get_credentials

    def fetch(session: boto3.Session) -> object:
        made[0] += 1
        return found(session)

    monkeypatch.setattr(boto3.Session, "get_credentials", fetch)
    server.proxy.faults = once(Fault(status=400, code="ExpiredToken"), lambda request: True)
    assert store.read("x") == b"1"
    assert made == [1]


@by_moto
@pytest.mark.parametrize("command", ["check", "stats", "build"])
def test_a_program_ends_with_75_when_s3_goes_away_while_it_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, command: str
) -> None:
    monkeypatch.setattr(S3Store.__init__, "__defaults__", (0.5,))
    write_phantoms(tmp_path / "root", {"train": 4, "test": 2}, size=32, seed=0)
    if command != "build":
        build_small(tmp_path / "root", S3Store(server.uri), 50_000, 300_000)
    seen = len(server.proxy.log)
    server.proxy.faults = lambda request: Fault(status=503) if request.number > seen + 3 else None
    arguments = {
        "build": ["--data_root", str(tmp_path / "root"), "--output", server.uri],
        "stats": [server.uri, "--output_dir", str(tmp_path / "stats")],
    }
    assert data.main([command, *arguments.get(command, [server.uri])]) == 75
    (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert error.startswith(f"error: {server.uri}/")
    assert "the server answers 503" in error


@by_moto
def test_an_outage_is_found_out_once_and_not_by_every_request(server: Server) -> None:
    store = S3Store(server.uri, patience=1)
    store.write("x", b"1")
    server.proxy.faults = lambda request: Fault(status=503)
    for _ in range(2):
        with pytest.raises(StorageAwayError, match="503 SlowDown, for 1 seconds"):
            store.read("x")
    before = len(server.proxy.log)
    for _ in range(5):
        with pytest.raises(StorageAwayError):
            store.write("y", b"1")
    assert len(server.proxy.log) - before == 5
    server.proxy.faults = lambda request: None
    assert store.read("x") == b"1"
    server.proxy.faults = once(Fault(status=503), lambda request: True)
    assert store.read("x") == b"1"


@by_moto
def test_processes_that_share_a_staging_folder_do_not_meet(server: Server) -> None:
    """As those of several containers do, in which all have the same process id."""
    store, shared, name = store_of(server), server.staging / "shared", CheckpointName(1, 1)
    places = [S3Place(store, shared) for _ in range(2)]
    staged = places[1].begin(name) / "file"
    staged.write_bytes(b"not sent yet")
    places[0].begin(name)
    places[0].report(name, 0, b"{}")
    assert staged.read_bytes() == b"not sent yet"
    assert list(shared.iterdir()) == [staged.parent]
    places[1].discard(name)
    places[1].writer = "run-01-00001"
    assert places[1].begin(name).name == f".draft-{name}-run-01-00001"
    assert not save(places, parts(1), name).error
    check_saved(places[0], [1])
    assert list(shared.iterdir()) == []
