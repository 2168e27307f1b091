"""Under ZeRO-3 no process holds more than its share of the model, also not while it starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prs_med.data.phantoms import phantom_texts
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med
from tests.conftest import Small
from tests.distributed.launcher import launch

pytestmark = pytest.mark.distributed

MB = 10**6
WIDE = TinyLlavaSize(width=1024, layers=8, heads=8, key_value_heads=8, feed_forward=3072)


@pytest.fixture(scope="module")
def started(small: Small, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    root = tmp_path_factory.mktemp("startup")
    write_llava_med(root / "llava", phantom_texts(small.data), seed=0, size=WIDE)
    buckets = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0, **dict.fromkeys(buckets, 100_000)}
    config = root / "zero3.json"
    config.write_text(json.dumps({"zero_optimization": zero}))
    program = ["--module", "tests.distributed.startup_memory"]
    paths = (small.llava_med, root / "llava", small.tinysam, config, root)
    done = launch([*program, *map(str, paths)], processes=2)
    assert done.returncode == 0, done.stderr
    return [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]


def test_a_process_holds_its_share_and_a_tensor_while_it_starts(started) -> None:
    for found in started:
        assert found["share"] == pytest.approx(found["whole"] / 2, rel=0.01)
        assert found["peak"] < found["share"] + 80 * MB < found["whole"]


def test_layers_in_4_bits_are_divided_one_by_one(started) -> None:
    for found in started:
        assert max(found["layers"]) == 0
        assert len(found["layers"]) > 20
