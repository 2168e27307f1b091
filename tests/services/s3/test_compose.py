"""What docker/compose.yaml starts, against a real S3 server, without the containers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prs_med.checkpoint.open_place import open_place
from prs_med.storage.location import open_store
from tests.patience import patience
from tests.programs import ROOT, environment, launchers
from tests.services.s3.ceph import CephGateway

pytestmark = pytest.mark.distributed

DOCKER = ROOT / "docker"


def composed(name: str) -> dict[str, Any]:
    """A compose file, without its variables' values."""
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return loaded


def run(words: list[str], folder: Path, *more: str) -> None:
    """Run a service's command as the image does, in the folder of the runs."""
    done = subprocess.run(
        ["bash", str(DOCKER / "entrypoint.sh"), *words, *more],
        cwd=folder,
        env={**environment(), "PATH": f"{launchers()}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience(600),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_demo_of_the_compose_file(ceph: CephGateway, bucket: str, tmp_path: Path) -> None:
    services = composed("compose.yaml")["services"]
    *make_bucket, name = services["bucket"]["command"]
    run(make_bucket, tmp_path, bucket)
    run(make_bucket, tmp_path, f"{bucket}-new")
    ceph.client().delete_bucket(Bucket=f"{bucket}-new")
    demo = [
        word.replace(f"s3://{name}/", f"s3://{bucket}/") for word in services["demo"]["command"]
    ]
    run(demo, tmp_path, "--steps", "2", "--output_dir", str(tmp_path / "demo"))
    assert "dataset.json" in open_store(f"s3://{bucket}/first/dataset").names()
    assert open_place(f"s3://{bucket}/first/checkpoints").checkpoints()
    assert (tmp_path / "demo" / "evaluation" / "report.html").exists()


def test_services_refer_to_what_there_is() -> None:
    everything = composed("compose.yaml")
    services = everything["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service["volumes"]:
            assert volume.partition(":")[0] in everything["volumes"]
        if "build" in service:
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()
    endpoint = services["demo"]["environment"]["AWS_ENDPOINT_URL"]
    assert re.fullmatch(r"http://s3:\d+", endpoint)
    assert set(composed("compose.gpu.yaml")["services"]) <= set(services)
    arguments = {"DEVICE", "FLASH_ATTN"}
    assert arguments <= set(re.findall(r"^ARG (\w+)", (DOCKER / "Dockerfile").read_text(), re.M))
