"""Keys that a run is given appear nowhere but in the environment of its processes."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from prs_med.storage.s3 import S3Store
from prs_med.storage.store import StorageError
from tests.conftest import Small
from tests.distributed.launcher import ROOT
from tests.patience import patience
from tests.ports import free_port
from tests.services.s3.ceph import CephGateway

pytestmark = pytest.mark.distributed

BIN = Path(sys.executable).parent
PASSWORD = "pass-Word/4711"
TOKENS = {"HF_TOKEN": "hf_PlantedTokenOfTheHub", "WANDB_API_KEY": "planted0key0of0a0monitor"}


def spellings(secret: str) -> set[bytes]:
    """A secret as it is, in an address, and in base64 (where its neighbours do not matter)."""
    plain = secret.encode()
    shifted = [base64.b64encode(b"-" * shift + plain)[4:-4] for shift in range(3)]
    return {plain, quote(secret, safe="").encode(), *shifted}


class Secrets:
    """What must not be found."""

    def __init__(self, *secrets: str) -> None:
        self._spellings = {spelling for secret in secrets for spelling in spellings(secret)}

    def are_in(self, text: bytes) -> bool:
        """Whether any of them is there, in any spelling."""
        return any(spelling in text for spelling in self._spellings)

    def files_with_them(self, folder: Path) -> list[Path]:
        """Files below a folder that have one in their content or name."""
        return [
            path
            for path in folder.rglob("*")
            if self.are_in(str(path).encode())
            or (path.is_file() and self.are_in(path.read_bytes()))
        ]


@contextmanager
def watched_process_lists(secrets: Secrets) -> Iterator[list[bytes]]:
    """The command lines of all processes of the machine, while in the context, that have one."""
    found: list[bytes] = []
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_bytes()
                except OSError:
                    continue
                if line not in seen and secrets.are_in(line):
                    found.append(line)
                seen.add(line)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
    assert len(seen) > 1, "the watch has seen processes"


def run(*words: str, status: int = 0, **environment: str) -> bytes:
    """What a command prints, all messages of the libraries included."""
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=ROOT,
        env={**os.environ, "PRS_MED_VERBOSE": "1", "OMP_NUM_THREADS": "1", **TOKENS, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=patience(300),
        check=False,
    )
    assert done.returncode == status, done.stdout.decode(errors="replace")[-3000:]
    return done.stdout


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    secrets = Secrets(PASSWORD)
    for number, text in enumerate([PASSWORD, quote(PASSWORD, safe=""), f"user:{PASSWORD}@host"]):
        (tmp_path / str(number)).write_text(f"...{text}...")
    (tmp_path / "basic").write_bytes(base64.b64encode(f"someone:{PASSWORD}".encode()))
    (tmp_path / "clean").write_text("pass-word")
    assert len(secrets.files_with_them(tmp_path)) == 4
    shown = ["cat", "-", PASSWORD]
    with (
        watched_process_lists(secrets) as found,
        subprocess.Popen(shown, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
    ):
        deadline = time.monotonic() + patience(60)
        while not found and time.monotonic() < deadline:
            time.sleep(0.01)
        process.communicate()
    assert found


def test_a_run_leaves_no_secret_anywhere(
    small: Small, ceph: CephGateway, bucket: str, tmp_path: Path
) -> None:
    secrets = Secrets(ceph.access_key, ceph.secret_key, *TOKENS.values())
    data, copies, save_dir = f"s3://{bucket}/data", f"s3://{bucket}/copies", tmp_path / "run"
    model = small.weights()
    with watched_process_lists(secrets) as in_process_lists:
        outputs = [
            run(
                "python",
                "launch/data.py",
                "build",
                "--data_root",
                str(small.data),
                "--output",
                data,
            ),
            run(
                *("deepspeed", "--num_gpus", "2", "--master_port", str(free_port())),
                *("launch/train.py", *model, "--data", data, "--checkpoint_uri", copies),
                *("--save_dir", str(save_dir), "--deepspeed", "ds_configs/zero2.json"),
                *("--max_steps", "2", "--log_every", "1", "--image_size", "64"),
                *("--batch_size", "2", "--num_workers", "1"),
            ),
            run(
                *("python", "launch/eval.py", "--checkpoint", copies, "--data", data),
                *("--output_dir", str(tmp_path / "evaluation"), "--split", "test"),
            ),
            run("python", "launch/plan.py", "--check", *model, "--data", data),
        ]
    assert not in_process_lists
    assert not any(secrets.are_in(output) for output in outputs)
    assert list(save_dir.rglob("*.safetensors"))
    assert (tmp_path / "evaluation" / "report.html").exists()
    assert not secrets.files_with_them(tmp_path)
    client, count = ceph.client(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page["Contents"]:
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            assert not secrets.are_in(item["Key"].encode() + body), item["Key"]
            count += 1
    assert count > 5


def test_errors_show_no_secret(
    small: Small,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets = Secrets(PASSWORD)
    program = ["python", "launch/data.py", "stats", "--data", f"s3://{bucket}/data"]
    refused = run(*program, status=2, AWS_SECRET_ACCESS_KEY=PASSWORD)
    assert b"check the credentials" in refused
    monkeypatch.setenv(
        "AWS_ENDPOINT_URL", f"http://someone:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}"
    )
    with pytest.raises(StorageError) as failure:
        # Long enough for a second attempt on a busy machine: making a client may take a second.
        S3Store(f"s3://{bucket}/data", patience=patience(8)).read("dataset.json")
    unreachable = f"{failure.value}\n{caplog.text}".encode()
    assert b"trying again" in unreachable
    assert unreachable.count(b"://***@127.0.0.1") > 1, "in the error and in the log"
    in_address = run(
        *("python", "launch/train.py", *small.arguments(), "--save_dir", str(tmp_path / "run")),
        *("--checkpoint_uri", f"s3://key:{PASSWORD}@{bucket}/copies"),
        status=2,
    )
    assert b"error: --checkpoint_uri: keys or a password in an address" in in_address
    for output in (refused, unreachable, in_address):
        assert not secrets.are_in(output), output
    assert not secrets.files_with_them(tmp_path)
