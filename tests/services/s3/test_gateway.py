"""The S3 servers of the tests do what the tests of the project rely on."""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ResponseStreamingError

from tests.patience import patience
from tests.services.s3 import ceph as ceph_module
from tests.services.s3.ceph import CephError, CephGateway, install_ceph
from tests.services.s3.fault_proxy import Fault, FaultProxy, Request
from tests.unavailable import unavailable

ROOT = Path(__file__).resolve().parents[3]
MEGABYTE = 1 << 20
ONCE = Config(retries={"total_max_attempts": 1})
PR_SET_CHILD_SUBREAPER = 36


def pattern(count: int) -> bytes:
    """Bytes that differ at every offset, so that a shifted or repeated block is seen."""
    return hashlib.shake_128(b"pattern").digest(count)


def error_of(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Status and code with which S3 refuses a call."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def content(client: Any, bucket: str, key: str, **more: Any) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key, **more)["Body"].read()
    return data


def connection_to(endpoint: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=patience(30))


def anyone_may_read(client: Any, bucket: str) -> None:
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    actions = ["s3:GetObject", "s3:ListBucket"]
    rule = {"Effect": "Allow", "Principal": "*", "Action": actions, "Resource": resources}
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


@pytest.fixture
def proxied(ceph: CephGateway, fault_proxy: FaultProxy) -> Any:
    """A client that goes through the proxy and tries everything once."""
    return ceph.client(fault_proxy.endpoint, ONCE)


@pytest.fixture
def foreign_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "nothing")


@pytest.fixture
def moto_client(moto_endpoint: str, no_aws_settings: None) -> Any:
    """A client of the stand-in, which takes any key."""
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("s3", endpoint_url=moto_endpoint, region_name="us-east-1", **keys)


# The gateway


def test_environment_alone_reaches_the_gateway(bucket: str) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="a/ü b+c", Body=b"abc", Metadata={"origin": "here"})
    answer = client.get_object(Bucket=bucket, Key="a/ü b+c")
    assert answer["Body"].read() == b"abc"
    assert answer["Metadata"] == {"origin": "here"}
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(item["Key"], item["Size"]) for item in listed] == [("a/ü b+c", 3)]
    client.delete_object(Bucket=bucket, Key="a/ü b+c")
    assert error_of(client.get_object, Bucket=bucket, Key="a/ü b+c") == (404, "NoSuchKey")


@pytest.mark.usefixtures("foreign_profile")
def test_other_settings_of_aws_are_left_out(bucket: str) -> None:
    assert boto3.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_signatures_are_verified(ceph: CephGateway, bucket: str) -> None:
    wrong = boto3.client("s3", aws_access_key_id=ceph.access_key, aws_secret_access_key="wrong")
    assert error_of(wrong.list_objects_v2, Bucket=bucket) == (403, "SignatureDoesNotMatch")


def test_parts_are_joined_and_ranges_cross_them(ceph: CephGateway, bucket: str) -> None:
    data, part = pattern(11 * MEGABYTE), 5 * MEGABYTE
    client = ceph.client()
    name = {"Bucket": bucket, "Key": "parts"}
    upload = client.create_multipart_upload(**name)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(data), part), start=1):
        which = {"UploadId": upload, "PartNumber": number}
        tag = client.upload_part(**name, **which, Body=data[start : start + part])["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(**name, UploadId=upload, MultipartUpload={"Parts": parts})
    head = client.head_object(**name)
    assert head["ContentLength"] == len(data)
    assert head["ETag"].endswith('-3"')
    answer = client.get_object(**name, Range=f"bytes={part - 3}-{part + 3}")
    assert answer["ContentRange"] == f"bytes {part - 3}-{part + 3}/{len(data)}"
    assert answer["Body"].read() == data[part - 3 : part + 4]
    assert content(client, bucket, "parts", Range="bytes=-5") == data[-5:]
    beyond = error_of(client.get_object, **name, Range=f"bytes={len(data)}-")
    assert beyond == (416, "InvalidRange")


def test_only_the_first_conditional_write_wins(ceph: CephGateway, bucket: str) -> None:
    client = ceph.client()
    name = {"Bucket": bucket, "Key": "once"}
    client.put_object(**name, Body=b"first", IfNoneMatch="*")
    again = error_of(client.put_object, **name, Body=b"second", IfNoneMatch="*")
    assert again == (412, "PreconditionFailed")
    assert content(client, bucket, "once") == b"first"


def test_anyone_reads_what_is_public_and_writes_nothing(ceph: CephGateway, bucket: str) -> None:
    owner = ceph.client()
    anyone = boto3.client("s3", config=Config(signature_version=UNSIGNED))
    owner.put_object(Bucket=bucket, Key="private", Body=b"1")
    owner.put_object(Bucket=bucket, Key="public", Body=b"2", ACL="public-read")
    assert error_of(anyone.get_object, Bucket=bucket, Key="private") == (403, "AccessDenied")
    assert error_of(anyone.list_objects_v2, Bucket=bucket) == (403, "AccessDenied")
    assert content(anyone, bucket, "public") == b"2"
    anyone_may_read(owner, bucket)
    assert content(anyone, bucket, "private") == b"1"
    assert anyone.list_objects_v2(Bucket=bucket)["KeyCount"] == 2
    written = error_of(anyone.put_object, Bucket=bucket, Key="other", Body=b"3")
    assert written == (403, "AccessDenied")


def test_daemons_end_with_a_killed_process(tmp_path: Path) -> None:
    if not (installed := install_ceph()):
        unavailable(installed.reason)
    program = (
        "import json, sys, time, pathlib\n"
        "from tests.services.s3.ceph import CephGateway\n"
        "gateway = CephGateway(pathlib.Path(sys.argv[1])).start()\n"
        "print(json.dumps(gateway.pids), flush=True)\n"
        "time.sleep(600)\n"
    )
    # Daemons without their parent become ours, so that their end can be waited for.
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            pids = json.loads(process.stdout.readline())
            process.kill()
        assert set(pids) == {"ceph-mon", "ceph-osd", "radosgw"}
        for pid in pids.values():
            _, status = os.waitpid(pid, 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_failed_start_shows_the_logs_and_leaves_nothing(
    ceph: CephGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "radosgw"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    gateway = CephGateway(tmp_path / "ceph")
    with pytest.raises(CephError, match=r"(?s)radosgw ended with 3.*radosgw\.out\nno luck today"):
        gateway.start()
    assert gateway.pids == {}
    assert (tmp_path / "ceph" / "mon.a.log").exists()
    ours = subprocess.run(["pgrep", "-P", str(os.getpid()), "ceph"], capture_output=True, text=True)
    running = {int(pid) for pid in ours.stdout.split()}
    assert running == {ceph.pids["ceph-mon"], ceph.pids["ceph-osd"]}


def test_missing_ceph_is_a_reason_or_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceph_module.shutil, "which", lambda name: None)
    installed = install_ceph()
    assert not installed
    assert "radosgw" in installed.reason
    assert "apt-get" in installed.reason
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PRS_MED_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no server"):
        unavailable("no server")
    monkeypatch.setenv("PRS_MED_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="no server"):
        unavailable("no server")


def test_moto_answers(moto_client: Any) -> None:
    moto_client.create_bucket(Bucket="a-bucket")
    moto_client.put_object(Bucket="a-bucket", Key="a", Body=b"1")
    assert content(moto_client, "a-bucket", "a") == b"1"


# The proxy without faults


def test_big_bodies_pass_unchanged(
    proxied: Any, ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    data = pattern(20 * MEGABYTE)
    parts = TransferConfig(multipart_threshold=8 * MEGABYTE, multipart_chunksize=8 * MEGABYTE)
    proxied.upload_fileobj(io.BytesIO(data), bucket, "big", Config=parts)
    assert content(ceph.client(), bucket, "big") == data
    sent = [(r.method, r.received) for r in fault_proxy.log if r.method == "PUT"]
    sizes = [8 * MEGABYTE, 8 * MEGABYTE, 4 * MEGABYTE]
    assert sorted(sent) == sorted(("PUT", size) for size in sizes)
    assert [r.query.split("=")[0] for r in fault_proxy.log if r.method == "POST"] == [
        "uploads",
        "uploadId",
    ]

    before = len(fault_proxy.log)
    first, last = 8 * MEGABYTE - 1000, 16 * MEGABYTE + 1000
    wanted = content(proxied, bucket, "big", Range=f"bytes={first}-{last}")
    assert wanted == data[first : last + 1]
    (request,) = fault_proxy.log[before:]
    assert request.range == f"bytes={first}-{last}"
    assert (request.method, request.path) == ("GET", f"/{bucket}/big")
    assert (request.status, request.sent) == (206, last + 1 - first)
    assert content(proxied, bucket, "big") == data


def test_one_put_of_20_megabytes_waits_for_the_server(
    proxied: Any, ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    data = pattern(20 * MEGABYTE)
    proxied.put_object(Bucket=bucket, Key="big", Body=data)
    assert content(ceph.client(), bucket, "big") == data
    wrong = boto3.client(
        "s3",
        endpoint_url=fault_proxy.endpoint,
        aws_secret_access_key="wrong",
        aws_access_key_id=ceph.access_key,
        config=ONCE,
    )
    refused = error_of(wrong.put_object, Bucket=bucket, Key="big", Body=data)
    assert refused == (403, "SignatureDoesNotMatch")
    # Both said "Expect: 100-continue"; the second was refused before it sent its body.
    assert [(r.status, r.received) for r in fault_proxy.log] == [(200, len(data)), (403, 0)]
    assert {r.headers["expect"] for r in fault_proxy.log} == {"100-continue"}


def test_answers_are_those_of_the_gateway(
    proxied: Any, ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    anyone_may_read(ceph.client(), bucket)
    ceph.client().put_object(Bucket=bucket, Key="a//b", Body=b"0123456789", Metadata={"x": "y"})

    def answer(endpoint: str, method: str, path: str, headers: dict[str, str]) -> Any:
        connection = connection_to(endpoint)
        connection.request(method, f"/{bucket}{path}", headers=headers)
        response = connection.getresponse()
        volatile = {"x-amz-request-id", "date"}
        kept = [pair for pair in response.getheaders() if pair[0].lower() not in volatile]
        body = response.read()
        connection.close()
        if b"<RequestId>" in body:
            body = body[: body.index(b"<RequestId>")]
        return response.status, response.reason, kept, body

    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/a//b", {}),
        ("GET", "/a//b", {"Range": "bytes=2-4"}),
        ("GET", "/a//b", {"Connection": "close"}),
        ("HEAD", "/a//b", {}),
        ("GET", "?list-type=2&prefix=a", {}),
        ("GET", "/none", {}),
        ("HEAD", "/none", {}),
        ("OPTIONS", "/a//b", {"Origin": "http://x", "Access-Control-Request-Method": "GET"}),
        ("DELETE", "/a//b", {}),
    ]
    for request in requests:
        assert answer(fault_proxy.endpoint, *request) == answer(ceph.endpoint, *request)
    log = fault_proxy.log
    assert [r.number for r in log] == list(range(1, len(requests) + 1))
    assert [(r.status, r.sent) for r in log[:4]] == [(200, 10), (206, 3), (200, 10), (200, 0)]


def test_a_connection_serves_many_requests(
    ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    anyone_may_read(ceph.client(), bucket)
    ceph.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    connection = connection_to(fault_proxy.endpoint)
    connection.connect()
    first = connection.sock
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, f"/{bucket}/a")
        assert connection.getresponse().read() == (b"" if method == "HEAD" else b"abc")
        assert connection.sock is first
    connection.close()


def test_chunked_answers_pass(ceph: CephGateway, fault_proxy: FaultProxy, bucket: str) -> None:
    anyone_may_read(ceph.client(), bucket)
    ceph.client().put_object(Bucket=bucket, Key="c", Body=b"")
    connection = connection_to(fault_proxy.endpoint)
    connection.request("GET", f"/{bucket}?list-type=2")
    response = connection.getresponse()
    assert response.headers["Transfer-Encoding"] == "chunked"
    body = response.read()
    assert b"<Key>c</Key>" in body
    assert fault_proxy.log[-1].sent == len(body)
    connection.close()


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}])
def test_chunked_uploads_pass(expect: dict[str, str], moto_client: Any) -> None:
    data = pattern(MEGABYTE)
    blocks = [data[start : start + 70_000] for start in range(0, len(data), 70_000)]
    moto_client.create_bucket(Bucket="chunks")
    name = {"Bucket": "chunks", "Key": "c"}
    url = moto_client.generate_presigned_url("put_object", Params=name)
    headers = {"Transfer-Encoding": "chunked", **expect}
    # The gateway wants a length; the stand-in does without.
    with FaultProxy(moto_client.meta.endpoint_url) as proxy:
        connection = connection_to(proxy.endpoint)
        target = url.removeprefix(moto_client.meta.endpoint_url)
        connection.request("PUT", target, iter(blocks), headers, encode_chunked=True)
        assert connection.getresponse().status == 200
        assert proxy.log[-1].received == len(data)
        connection.close()
    assert content(moto_client, "chunks", "c") == data


def test_presigned_addresses_pass(ceph: CephGateway, fault_proxy: FaultProxy, bucket: str) -> None:
    ceph.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    signer = ceph.client(fault_proxy.endpoint, Config(signature_version="s3v4"))
    url = signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a"})
    connection = connection_to(fault_proxy.endpoint)
    connection.request("GET", url.removeprefix(fault_proxy.endpoint))
    assert connection.getresponse().read() == b"abc"
    connection.close()


def test_many_clients_at_once_are_counted(
    ceph: CephGateway, proxied: Any, fault_proxy: FaultProxy, bucket: str
) -> None:
    data = pattern(MEGABYTE)
    ceph.client().put_object(Bucket=bucket, Key="a", Body=data)
    asked: list[int] = []
    fault_proxy.faults = lambda request: asked.append(len(fault_proxy.log))

    def read(start: int) -> bool:
        end = start + 50_000
        return content(proxied, bucket, "a", Range=f"bytes={start}-{end - 1}") == data[start:end]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 800_000, 20_000)))
    assert [r.number for r in fault_proxy.log] == list(range(1, 41))
    assert asked == list(range(1, 41))
    assert sum(r.sent for r in fault_proxy.log) == 40 * 50_000


# The proxy with faults


@pytest.fixture
def thing(ceph: CephGateway, bucket: str) -> bytes:
    """The content of the public object ``thing``."""
    data = pattern(100_000)
    client = ceph.client()
    client.put_object(Bucket=bucket, Key="thing", Body=data)
    anyone_may_read(client, bucket)
    return data


def test_refusals_come_from_the_proxy_or_after_the_deed(
    proxied: Any, ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    def slow_down_twice(request: Request) -> Fault | None:
        return Fault(status=503, performed=request.number == 2) if request.number < 3 else None

    fault_proxy.faults = slow_down_twice
    name = {"Bucket": bucket, "Key": "k"}
    put = {**name, "Body": b"x" * MEGABYTE, "IfNoneMatch": "*"}
    assert error_of(proxied.put_object, **put) == (503, "SlowDown")
    assert error_of(ceph.client().head_object, **name) == (404, "404")
    assert error_of(proxied.put_object, **put) == (503, "SlowDown")
    assert ceph.client().head_object(**name)["ContentLength"] == MEGABYTE
    assert error_of(proxied.put_object, **put) == (412, "PreconditionFailed")
    received = [(r.status, r.received) for r in fault_proxy.log]
    assert received[:2] == [(503, 0), (503, MEGABYTE)]
    fault_proxy.faults = lambda request: Fault(status=500, code="InternalError")
    assert error_of(proxied.get_object, **name) == (500, "InternalError")
    assert error_of(proxied.head_object, **name) == (500, "500")


def test_resets_come_before_or_after_the_deed(
    proxied: Any, ceph: CephGateway, fault_proxy: FaultProxy, bucket: str
) -> None:
    put = {"Bucket": bucket, "Key": "k", "Body": b"x" * MEGABYTE}
    fault_proxy.faults = lambda request: Fault(reset=True)
    with pytest.raises(ConnectionClosedError):
        proxied.put_object(**put)
    assert error_of(ceph.client().head_object, Bucket=bucket, Key="k") == (404, "404")
    fault_proxy.faults = lambda request: Fault(reset=True, performed=True)
    with pytest.raises(ConnectionClosedError):
        proxied.put_object(**put)
    assert ceph.client().head_object(Bucket=bucket, Key="k")["ContentLength"] == MEGABYTE
    assert [r.status for r in fault_proxy.log] == [None, None]


def test_a_reset_is_one_on_the_wire(fault_proxy: FaultProxy, bucket: str, thing: bytes) -> None:
    fault_proxy.faults = lambda request: Fault(reset=True)
    connection = connection_to(fault_proxy.endpoint)
    connection.request("GET", f"/{bucket}/thing")
    with pytest.raises(ConnectionResetError):
        connection.getresponse()


@pytest.mark.parametrize("count", [0, 1, 99_999])
def test_a_cut_body_ends_exactly_there(
    count: int, proxied: Any, fault_proxy: FaultProxy, bucket: str, thing: bytes
) -> None:
    fault_proxy.faults = lambda request: Fault(cut_after=count)
    connection = connection_to(fault_proxy.endpoint)
    connection.request("GET", f"/{bucket}/thing")
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Length"] == str(len(thing))
    assert response.read(count) == thing[:count]
    with pytest.raises(ConnectionResetError):
        response.read(1)
    connection.close()
    with pytest.raises(ResponseStreamingError):
        content(proxied, bucket, "thing")
    assert [r.sent for r in fault_proxy.log] == [count, count]


def test_delay_comes_before_the_answer(
    proxied: Any, fault_proxy: FaultProxy, bucket: str, thing: bytes
) -> None:
    fault_proxy.faults = lambda request: Fault(delay_s=0.4)
    start = time.monotonic()
    answer = proxied.get_object(Bucket=bucket, Key="thing")
    assert 0.4 <= time.monotonic() - start < 5
    assert answer["Body"].read() == thing


def test_a_trickle_has_its_speed(
    proxied: Any, fault_proxy: FaultProxy, bucket: str, thing: bytes
) -> None:
    fault_proxy.faults = lambda request: Fault(bytes_per_s=200_000)
    answer = proxied.get_object(Bucket=bucket, Key="thing")
    start = time.monotonic()
    assert answer["Body"].read() == thing
    assert 0.4 < time.monotonic() - start < 5


@pytest.mark.parametrize("offset", [0, 61_234, 99_999])
def test_one_byte_is_wrong(
    offset: int, proxied: Any, fault_proxy: FaultProxy, bucket: str, thing: bytes
) -> None:
    fault_proxy.faults = lambda request: Fault(flip_at=offset)
    wrong = content(proxied, bucket, "thing")
    assert [i for i in range(len(thing)) if wrong[i] != thing[i]] == [offset]
    assert wrong[offset] == thing[offset] ^ 0xFF


def test_faults_combine_and_choose_their_requests(
    proxied: Any, fault_proxy: FaultProxy, bucket: str, thing: bytes
) -> None:
    def damaged_start(request: Request) -> Fault | None:
        return Fault(flip_at=3, cut_after=10) if request.range == "bytes=0-99" else None

    fault_proxy.faults = damaged_start
    body = proxied.get_object(Bucket=bucket, Key="thing", Range="bytes=0-99")["Body"]
    assert body.read(10) == thing[:3] + bytes([thing[3] ^ 0xFF]) + thing[4:10]
    with pytest.raises(ResponseStreamingError):
        body.read()
    assert content(proxied, bucket, "thing", Range="bytes=100-199") == thing[100:200]
    assert [r.sent for r in fault_proxy.log] == [10, 100]


def test_a_server_that_is_gone_resets_its_clients(proxied: Any) -> None:
    with FaultProxy("http://127.0.0.1:9") as proxy:
        connection = connection_to(proxy.endpoint)
        connection.request("GET", "/")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()


def test_stop_ends_what_is_delayed(ceph: CephGateway) -> None:
    proxy = FaultProxy(ceph.endpoint)
    proxy.faults = lambda request: Fault(delay_s=600)
    connection = connection_to(proxy.endpoint)
    connection.request("GET", "/")
    while not proxy.log:
        time.sleep(0.01)
    start = time.monotonic()
    proxy.stop()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.getresponse().read()
    assert time.monotonic() - start < 5
