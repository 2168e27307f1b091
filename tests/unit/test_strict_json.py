"""What is written as JSON is JSON, also when training came to no number."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from prs_med.checkpoint.manifest import CheckpointName, Manifest, parse_manifest
from prs_med.checkpoint.retention import Retention
from prs_med.data.order import Rank
from prs_med.storage import strict_json
from prs_med.train.progress import RunningLosses

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def same(value: Any, read: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return read is None
    if isinstance(value, dict):
        return value.keys() == read.keys() and all(same(value[k], read[k]) for k in value)
    if isinstance(value, list):
        return len(value) == len(read) and all(map(same, value, read))
    return bool(value == read)


@given(VALUES)
def test_numbers_that_are_not_finite_become_null_and_all_else_stays(value: Any) -> None:
    assert same(value, json.loads(strict_json.dumps(value), parse_constant=refuse))


def test_a_manifest_is_json_whatever_its_state(tmp_path) -> None:
    state = {"scores": {"val_hd95": math.inf, "val_dice": 0.5}, "sums": [math.nan, 1.0]}
    manifest = Manifest("step-00000001-01", "a1b2", "2026-01-01T00:00:00Z", 1, {}, [], [], state)
    data = manifest.dumps()
    json.loads(data, parse_constant=refuse)
    read = parse_manifest(data, "step").state
    assert read == {"scores": {"val_hd95": None, "val_dice": 0.5}, "sums": [None, 1.0]}


def test_a_score_that_was_not_finite_makes_no_best_checkpoint() -> None:
    scores = {CheckpointName(1, 1): {"val_dice": None}, CheckpointName(1, 2): {"val_dice": 0.1}}
    assert Retention(1, "val_dice", True).best(scores) == CheckpointName(1, 2)


def test_losses_that_were_not_finite_stay_so_when_a_run_goes_on() -> None:
    losses = RunningLosses(torch.device("cpu"), Rank(0, 1))
    losses.load({"sums": [None, 1.0, 2.0, 0.0], "units": 2})
    assert losses._sums.isnan().tolist() == [True, False, False, False]
