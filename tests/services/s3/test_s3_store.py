"""Files on S3, on two servers that differ, and with a network that fails."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from prs_med.storage import s3
from prs_med.storage.location import open_store
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import MissingFileError, StorageError
from tests.patience import patience
from tests.ports import free_port
from tests.services.s3.ceph import CephGateway
from tests.services.s3.fault_proxy import Fault, FaultProxy, Request

DATA = random.Random(0).randbytes(3_000_000)


@pytest.fixture(params=["ceph", "moto"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A prefix of a fresh bucket."""
    if request.param == "ceph":
        return S3Store(
            f"s3://{request.getfixturevalue('bucket')}/some/folder", patience=patience(5)
        )
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("moto_endpoint"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    name = f"test-{random.randrange(10**9)}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return S3Store(f"s3://{name}/some/folder", patience=patience(5))


def test_what_is_written_is_read(store: S3Store, tmp_path: Path) -> None:
    assert store.names() == []
    store.write("a/small.json", b"{}")
    (tmp_path / "large").write_bytes(DATA * 7)
    store.write_file("large.bin", tmp_path / "large")
    assert store.read("a/small.json") == b"{}"
    assert store.read("large.bin") == DATA * 7
    assert store.read("large.bin", 17, 1000) == DATA[17:1017]
    assert store.read("large.bin", 5, 0) == b""
    assert store.read("large.bin", len(DATA) * 7 - 10) == DATA[-10:]
    assert (store.size("large.bin"), store.size("none")) == (len(DATA) * 7, None)
    assert store.names() == ["a/small.json", "large.bin"]
    assert store.names("a/") == ["a/small.json"]
    store.write("a/small.json", b"[]")
    assert store.read("a/small.json") == b"[]"
    store.delete("a/small.json")
    store.delete("a/small.json")
    assert store.names() == ["large.bin"]


def test_what_is_not_there_is_named(store: S3Store) -> None:
    with pytest.raises(MissingFileError, match=rf"{store.uri}/none: no such object"):
        store.read("none")
    store.write("short", b"12345")
    for offset in (0, 3, 100):
        with pytest.raises(StorageError, match=f"{store.uri}/short: "):
            store.read("short", offset, 100)
    with pytest.raises(StorageError, match="s3://no-such-bucket-here: there is no such bucket"):
        S3Store("s3://no-such-bucket-here/x", patience=1).read("x")


def test_wrong_credentials_are_not_repeated(bucket: str, monkeypatch) -> None:
    S3Store(f"s3://{bucket}").write("x", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"x: the server answers 403 .*check the credentials"):
        S3Store(f"s3://{bucket}", patience=patience(60)).read("x")
    assert time.monotonic() - started < patience(30)


def test_a_public_bucket_needs_no_credentials(bucket: str, ceph, monkeypatch) -> None:
    ceph.client().put_object(Bucket=bucket, Key="open", Body=b"hello", ACL="public-read")
    ceph.client().put_object(Bucket=bucket, Key="closed", Body=b"hello")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store(f"s3://{bucket}", patience=patience(5))
    assert store.read("open") == b"hello"
    with pytest.raises(StorageError, match="403"):
        store.read("closed")


@pytest.fixture
def faulty(bucket: str, fault_proxy: FaultProxy, monkeypatch) -> tuple[S3Store, FaultProxy]:
    """A store with an object behind a proxy."""
    S3Store(f"s3://{bucket}").write("shard", DATA)
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)
    return S3Store(f"s3://{bucket}", patience=patience(8)), fault_proxy


def first_of(proxy: FaultProxy, count: int, fault: Fault) -> None:
    """Let the next requests fail, and those behind them pass."""
    last = len(proxy.log) + count

    def faults(request: Request) -> Fault | None:
        return fault if request.number <= last else None

    proxy.faults = faults


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=503, code="SlowDown"), "503 SlowDown"),
        (Fault(status=500, code="InternalError"), "500 InternalError"),
        (Fault(status=429, code="TooManyRequests"), "429"),
        (Fault(reset=True), "onnection"),
        (Fault(cut_after=100_000), "shard"),
        (Fault(cut_after=0), "shard"),
    ],
)
def test_what_may_pass_is_repeated_and_logged(faulty, caplog, fault: Fault, says: str) -> None:
    store, proxy = faulty
    first_of(proxy, 2, fault)
    assert store.read("shard", 1000, 2_000_000) == DATA[1000:2_001_000]
    assert len(proxy.log) == 3
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert message.startswith(f"{store.uri}/shard: ")
        assert says in message
        assert "trying again in" in message


def test_a_server_that_starts_again_is_waited_for(
    bucket: str, ceph: CephGateway, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    S3Store(f"s3://{bucket}").write("shard", DATA)
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    store = S3Store(f"s3://{bucket}", patience=patience(30))
    with ThreadPoolExecutor() as executor:
        reading = executor.submit(store.read, "shard")
        while not caplog.messages:
            assert not reading.done(), reading.result()
            time.sleep(0.01)
        with FaultProxy(ceph.endpoint, port):
            assert reading.result() == DATA
    assert "Could not connect" in caplog.messages[0]


def test_slow_and_silent_answers_are_asked_for_again(faulty, caplog, monkeypatch) -> None:
    store, proxy = faulty
    monkeypatch.setattr(s3, "_SILENCE_SECONDS", 1)
    monkeypatch.setattr(s3, "_SLOWEST_BYTES_PER_SECOND", 2_000_000)
    for fault in (Fault(delay_s=4), Fault(bytes_per_s=100_000)):
        caplog.clear()
        first_of(proxy, 1, fault)
        started = time.monotonic()
        assert store.read("shard") == DATA
        assert len(caplog.messages) == 1
        assert time.monotonic() - started < 20


def test_what_does_not_pass_ends_in_an_error_with_the_name(faulty) -> None:
    store, proxy = faulty
    first_of(proxy, 10**6, Fault(status=503, code="SlowDown"))
    with pytest.raises(StorageError, match=rf"{store.uri}/shard: .*503 SlowDown, for 8 seconds"):
        store.read("shard")
    assert len(proxy.log) > 2


def test_uploads_are_repeated_too(faulty, tmp_path: Path) -> None:
    store, proxy = faulty
    (tmp_path / "file").write_bytes(DATA * 7)
    first_of(proxy, 3, Fault(reset=True))
    store.write_file("new", tmp_path / "file")
    first_of(proxy, 1, Fault(status=503))
    store.write("tiny", b"1")
    proxy.faults = lambda request: None
    assert store.read("new") == DATA * 7
    assert store.read("tiny") == b"1"


def test_no_secret_is_shown(faulty, caplog) -> None:
    store, proxy = faulty
    first_of(proxy, 10**6, Fault(status=500, code="InternalError"))
    with pytest.raises(StorageError) as raised:
        store.read("shard")
    for text in (*caplog.messages, str(raised.value)):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
        assert os.environ["AWS_ACCESS_KEY_ID"] not in text


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    for uri in (str(tmp_path), "s3://bucket/folder"):
        with pytest.raises(ValueError, match="is not the name of a file below"):
            open_store(uri).read(name)


def test_other_schemes_are_refused() -> None:
    with pytest.raises(StorageError, match=r"gs://x: gs:// is not known here"):
        open_store("gs://x")
    with pytest.raises(StorageError, match="names no bucket"):
        open_store("s3://")
