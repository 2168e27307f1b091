"""Datasets on a real S3 server: built there, streamed from there, also over a bad network."""

from __future__ import annotations

import os
import random
import subprocess
import time
from itertools import islice
from pathlib import Path

import pytest

from prs_med.data.dataset.check import check
from prs_med.data.dataset.index import read_index
from prs_med.data.order import Rank
from prs_med.data.phantoms import write_phantoms
from prs_med.data.records import DataError
from prs_med.data.stream.row_group_source import RowGroupSource
from prs_med.data.stream.training_stream import TrainingStream
from prs_med.storage.location import open_store
from prs_med.storage.s3 import S3Store
from prs_med.storage.store import Store
from tests.conftest import Small
from tests.distributed.launcher import launch
from tests.distributed.streaming import killed_runs, uninterrupted
from tests.patience import patience
from tests.programs import command as program
from tests.programs import kill
from tests.run_folder import rows as metric_rows
from tests.services.s3.fault_proxy import Fault, FaultProxy, Request
from tests.small_dataset import build_small

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    write_phantoms(folder, {"train": 80, "val": 8, "test": 4}, size=64, seed=2)
    return folder


def built(root: Path, store: Store) -> None:
    build_small(root, store, 50_000, 300_000)


def stream_of(store: Store) -> TrainingStream:
    opened = read_index(store)
    return TrainingStream(
        opened,
        RowGroupSource(store, opened.split("train")),
        seed=0,
        global_batch=8,
        shuffle_window=8,
        unit="question",
    )


def rows(store: Store, count: int, first_step: int = 0, memory: int = 2**22) -> list[str]:
    units = stream_of(store).units_of(Rank(0, 1), first_step, memory)
    try:
        return [unit.stored.targets[0].row_id for unit in islice(units, count)]
    finally:
        units.close()


@pytest.fixture
def uri(root: Path, bucket: str) -> str:
    """A dataset on the server."""
    uri = f"s3://{bucket}/sets/phantoms"
    built(root, open_store(uri))
    return uri


def test_the_dataset_on_s3_is_the_one_in_a_folder(root: Path, uri: str, tmp_path: Path) -> None:
    folder, remote = open_store(str(tmp_path)), open_store(uri)
    built(root, folder)
    assert remote.names() == folder.names()
    for name in folder.names():
        assert remote.read(name) == folder.read(name)
    assert rows(remote, 200) == rows(folder, 200)
    findings = check(remote, 2, show_progress=False)
    assert (findings.images, findings.errors) == (92, 0)


def test_hugging_face_datasets_streams_it(uri: str) -> None:
    from datasets import load_dataset

    options = {
        "key": os.environ["AWS_ACCESS_KEY_ID"],
        "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
    }
    loaded = load_dataset(
        "parquet",
        data_files={"train": f"{uri}/data/train-*.parquet"},
        split="train",
        streaming=True,
        storage_options=options,
    )
    seen = [target["row_id"] for row in loaded for target in row["targets"]]
    assert sorted(seen) == sorted(rows(open_store(uri), 80))
    assert next(iter(loaded))["image"].size == (64, 64)


def test_a_build_onto_s3_that_was_killed_goes_on(root: Path, bucket: str, tmp_path: Path) -> None:
    uri = f"s3://{bucket}/killed"
    store = open_store(uri)
    command = [
        *program("data", "build", "--data_root", root, "--output", uri),
        # So many shards that a late kill still comes before the last.
        *("--row_group_mb", "0.005", "--shard_mb", "0.01"),
    ]
    for shards in (1, 3):
        running = subprocess.Popen(command, cwd=ROOT, stdout=-3, stderr=-3)
        while len(store.names("_build/")) < shards and running.poll() is None:
            time.sleep(0.005)
        kill(running)
    kept = store.names("_build/")
    assert kept
    assert store.size("dataset.json") is None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shards = len(store.names("data/"))
    assert f"{shards - len(kept)} shards written" in done.stdout
    assert store.names("_build/") == []
    assert check(store, 2, show_progress=False).errors == 0


@pytest.fixture
def faulty(uri: str, fault_proxy: FaultProxy, monkeypatch) -> tuple[S3Store, FaultProxy]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)
    return S3Store(uri, patience=patience(60)), fault_proxy


def test_every_sample_comes_in_order_over_a_bad_network(
    faulty: tuple[S3Store, FaultProxy], root: Path, tmp_path: Path
) -> None:
    store, proxy = faulty
    built(root, open_store(str(tmp_path)))
    rng = random.Random(4)
    counts = {"faults": 0}
    kinds = [
        lambda: Fault(status=503, code="SlowDown"),
        lambda: Fault(reset=True),
        lambda: Fault(cut_after=rng.randrange(20_000)),
        lambda: Fault(delay_s=rng.uniform(0, 0.2)),
        lambda: Fault(flip_at=rng.randrange(20_000)),
    ]

    def faults(request: Request) -> Fault | None:
        # dataset.json has no checksum of its own: its damage shows as text that cannot be read.
        if rng.random() > 0.3 or request.path.endswith("dataset.json"):
            return None
        counts["faults"] += 1
        return rng.choice(kinds)()

    proxy.faults = faults
    # Little memory, so that there are many requests.
    assert rows(store, 240, memory=100_000) == rows(open_store(str(tmp_path)), 240)
    assert counts["faults"] > 20


def test_damage_on_the_server_is_named_with_shard_and_row_group(uri: str) -> None:
    store = open_store(uri)
    shard = read_index(store).split("train").shards[0]
    data = bytearray(store.read(shard.name))
    data[shard.row_groups.offsets[1] + 100] ^= 1
    store.write(shard.name, bytes(data))
    with pytest.raises(DataError, match=rf"^{uri}/{shard.name} row group 1: the checksum is wrong"):
        rows(store, 80)
    store.delete(shard.name)
    with pytest.raises(DataError, match=rf"^{uri}/{shard.name} .*no such object"):
        rows(store, 80)


def test_a_resume_costs_no_more_requests_or_bytes_than_a_start(
    faulty: tuple[S3Store, FaultProxy],
) -> None:
    store, proxy = faulty

    def cost(first_step: int) -> tuple[int, int]:
        before = len(proxy.log)
        rows(store, 8, first_step, memory=300_000)
        gets = [r for r in proxy.log[before:] if not r.path.endswith("dataset.json")]
        return len(gets), sum(request.sent for request in gets)

    cost(0)
    start, late, far = cost(0), cost(9), cost(10**6)
    for requests, nbytes in (late, far):
        assert requests <= start[0] + 4
        assert nbytes <= 1.5 * start[1]


def test_reads_are_of_row_groups_not_of_whole_shards(faulty: tuple[S3Store, FaultProxy]) -> None:
    store, proxy = faulty
    rows(store, 80)
    shards = read_index(store).split("train").shards
    groups = sum(len(shard.row_groups) for shard in shards)
    gets = [request for request in proxy.log if "/data/train" in request.path]
    assert all(request.range for request in gets)
    assert len(gets) == groups + len(shards)
    assert sum(request.sent for request in gets) < 1.1 * sum(shard.size for shard in shards)


def test_processes_killed_in_mid_epoch_lose_and_repeat_nothing(uri: str, tmp_path: Path) -> None:
    found = killed_runs(uri, tmp_path, [2, 1, 3], seed=1)
    assert len(found) > 24
    assert found == uninterrupted(uri, len(found))


@pytest.mark.distributed
def test_two_ranks_train_from_s3_over_a_bad_network_as_from_a_folder(
    small: Small, bucket: str, fault_proxy: FaultProxy, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", fault_proxy.endpoint)
    places = {"folder": str(tmp_path / "dataset"), "s3": f"s3://{bucket}/dataset"}
    rng = random.Random(0)
    proxy_faults = [Fault(status=503), Fault(reset=True), Fault(cut_after=3000), Fault(flip_at=99)]
    losses = {}
    for name, uri in places.items():
        built(small.data, open_store(uri))
        fault_proxy.faults = lambda request: (
            rng.choice(proxy_faults)
            if rng.random() < 0.1 and "/data/" in request.path and request.method == "GET"
            else None
        )
        done = launch(
            [
                *("launch/train.py", *small.streaming(uri), "--deepspeed", "ds_configs/zero2.json"),
                *("--save_dir", str(tmp_path / name), "--image_size", "96", "--max_steps", "9"),
                *("--batch_size", "2", "--log_every", "1"),
            ],
            2,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        entries = metric_rows(tmp_path / name)
        losses[name] = [entry[k] for entry in entries for k in ("loss", "val_dice") if k in entry]
        for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            written = (tmp_path / name / "settings.yaml").read_text(encoding="utf-8")
            assert os.environ[secret] not in written + done.stdout + done.stderr
    assert len(losses["s3"]) >= 10
    assert losses["s3"] == losses["folder"]
