"""Places for checkpoints on S3, as several processes open them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from prs_med.checkpoint.manifest import CheckpointName
from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.s3_place import S3Place
from prs_med.storage.s3 import S3Store
from tests.crash.cutting import zero2, zero3
from tests.services.s3.fault_proxy import FaultProxy
from tests.unit.checkpoint_states import Further, State, load, snapshots

STATE = State.random({"mllm": [[30_000], [7, 11]]})
CUTS = {"mllm": zero2(STATE.parameters["mllm"], 2)}


@dataclass
class Server:
    """A folder of a bucket behind a proxy."""

    uri: str
    proxy: FaultProxy
    staging: Path
    client: Any
    """Directly to the server."""

    def places(self, world: int = 2, patience: float = 20.0) -> list[S3Place]:
        """As each process opens it."""
        store = S3Store(self.uri, patience)
        return [S3Place(store, self.staging / str(rank)) for rank in range(world)]

    def keys(self, prefix: str = "") -> list[str]:
        """What lies there, as the server itself lists it."""
        bucket, _, folder = self.uri.removeprefix("s3://").partition("/")
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{folder}/{prefix}"
        )
        found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return sorted(key.removeprefix(f"{folder}/") for key in found)

    def staged(self) -> list[Path]:
        """What lies in the folders that files pass through."""
        return [path for path in self.staging.rglob("*") if path.parent != self.staging]


@cache
def _session(key: str, secret: str) -> boto3.Session:
    # Each session reads botocore's description of S3 anew.
    return boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret)


def direct_client(endpoint: str) -> Any:
    """A client that is not affected by the environment's endpoint."""
    session = _session(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return session.client("s3", region_name="us-east-1", endpoint_url=endpoint)


def parts(step: int, metrics: bytes = b"{}\n") -> list[Any]:
    """What two processes contribute; all but the metrics is always the same."""
    further = Further(files={"metrics.jsonl": metrics}, state={"step": step, "scores": {}})
    return snapshots(STATE, CUTS, further)


def check_saved(place: Any, steps: list[int]) -> None:
    """These steps and no others are complete, and can be loaded by another number of processes."""
    names = place.checkpoints()
    assert [name.step for name in names] == steps
    for name in names:
        check_whole(place, name)


def check_whole(place: Any, name: CheckpointName) -> None:
    """The checkpoint is :data:`STATE`, bit for bit."""
    reader = CheckpointReader(place, name)
    reader.verify()
    load(reader, STATE, {"mllm": zero3(STATE.parameters["mllm"], 3)})
