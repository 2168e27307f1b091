"""Services that the tests in this folder share: S3 as it is, with faults, and simulated; Slurm."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from tenacity.wait import wait_random

from prs_med.storage import retry
from tests.services.packages import need
from tests.services.s3.ceph import CephGateway, install_ceph
from tests.services.s3.fault_proxy import FaultProxy
from tests.services.s3.s3_places import Server, direct_client
from tests.services.slurm.cluster import SlurmCluster, install_slurm


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephGateway]:
    """A real S3 server for the whole session."""
    need(install_ceph(), "Ceph is not installed")
    with CephGateway(tmp_path_factory.mktemp("ceph")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real Slurm cluster of two nodes for the whole session."""
    need(install_slurm(), "Slurm is not installed")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor the files of the developer say anything about AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name in ("no_proxy", "NO_PROXY"):  # the first counts more where both are set
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    # boto3.client() keeps a session, which keeps the credentials it was made with.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def bucket(
    ceph: CephGateway, no_aws_settings: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A fresh bucket; the environment names its server and nothing else of AWS."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    client, name = ceph.client(), f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield name
    # The objects are in memory. The empty bucket costs nothing.
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=item["Key"])


@pytest.fixture
def fault_proxy(ceph: CephGateway) -> Iterator[FaultProxy]:
    """A proxy before the gateway. A test that wants it in the way sets AWS_ENDPOINT_URL."""
    with FaultProxy(ceph.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """A stand-in for S3 that starts at once and takes any key."""
    from moto.server import ThreadedMotoServer  # slow to import

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["ceph", "moto"])
def server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Server]:
    """A fresh folder on a server; requests go through a proxy, and are repeated almost at once."""
    if request.param == "ceph":
        bucket = request.getfixturevalue("bucket")
        endpoint = request.getfixturevalue("ceph").endpoint
    else:
        request.getfixturevalue("no_aws_settings")
        endpoint = request.getfixturevalue("moto_endpoint")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        direct_client(endpoint).create_bucket(Bucket=bucket)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: wait_random(0, 0.1))
    with FaultProxy(endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield Server(f"s3://{bucket}/runs/a", proxy, tmp_path / "staging", direct_client(endpoint))
