"""Training checkpoints of small models, made without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from prs_med.checkpoint.manifest import CheckpointName, Parameter
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.saver import Saver
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments, Snapshot
from prs_med.data.rows import read_records
from prs_med.data.split import split_records
from prs_med.data.stored_split import StoredSplit
from prs_med.model.fingerprint import frozen_fingerprint, language_model_fingerprint
from tests.unit.assembled import Assembled

PROCESSES = 3
SHARD_BYTES = 300_000
"""Small, so that parameters are cut and groups have several shards."""


def write_checkpoint(
    model: Assembled,
    place: Place,
    step: int = 6,
    attempt: int = 1,
    average: nn.Module | None = None,
    **state: Any,
) -> CheckpointName:
    """Save ``model`` as three processes of ZeRO-2 would.

    Args:
        average: a model of the same kind, whose weights are kept as the moving average.
        state: entries to put into the manifest's state, or to replace there.
    """
    name = CheckpointName(attempt, step)
    # One after the other: places tell processes apart by their numbers, and here is only one.
    for rank in reversed(range(PROCESSES)):
        groups = {
            side: _owned(getattr(model, side), average and getattr(average, side), rank, step)
            for side in ("mllm", "segmentation")
            if any(p.requires_grad for p in getattr(model, side).parameters())
        }
        files = {"metrics.jsonl": b"{}\n", "split.json": _split(model)}
        saver = Saver(place, rank, PROCESSES, "a1b2", shard_bytes=SHARD_BYTES)
        saver.save(name, Snapshot(groups, _whole(model), files, {**_state(model, step), **state}))
        outcome = saver.wait()
        assert outcome is not None
        assert not outcome.error, outcome.error
    return name


def _split(model: Assembled) -> bytes:
    """Which images the training would have had in which split."""
    records = read_records(model.settings).records
    return StoredSplit.of(split_records(records, 0.1, 0), {}).dumps()


def _owned(module: nn.Module, average: nn.Module | None, rank: int, steps: int) -> OwnedFragments:
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    other = dict(average.named_parameters()) if average is not None else {}
    flat = _flat(named.values())
    per_process = -(-len(flat) // PROCESSES)
    begin, end = rank * per_process, min((rank + 1) * per_process, len(flat))
    fragments, at = [], 0
    for number, parameter in enumerate(named.values()):
        start, stop = max(begin, at), min(end, at + parameter.numel())
        if start < stop:
            fragments.append(Fragment(number, start - at, stop - start))
        at += parameter.numel()
    vectors = {"master": flat, "exp_avg": flat + 1, "exp_avg_sq": flat + 2}
    if other:
        vectors["average"] = _flat(other[name] for name in named)
    return OwnedFragments(
        [Parameter(name, list(parameter.shape)) for name, parameter in named.items()],
        fragments,
        {kind: vector[begin:end].copy() for kind, vector in vectors.items()},
        steps,
    )


def _flat(parameters: Any) -> np.ndarray:
    return torch.cat([p.detach().float().reshape(-1) for p in parameters]).numpy()


def _whole(model: Assembled) -> dict[str, np.ndarray]:
    """Statistics of the segmentation side, and the adapter if it is frozen."""
    segmentation = model.segmentation
    parameters = dict(segmentation.named_parameters())
    found = {
        f"segmentation/{name}": value.numpy()
        for name, value in segmentation.state_dict().items()
        if name not in parameters
    }
    if model.settings.freeze_mllm:
        found |= {
            f"mllm/{name}": parameter.detach().float().numpy()
            for name, parameter in model.mllm.named_parameters()
            if "lora_" in name
        }
    return found


def _state(model: Assembled, step: int) -> Mapping[str, Any]:
    return {
        "step": step,
        "epoch": step / 6,
        "samples": 4 * step,
        "scores": {"val_dice": 0.25},
        "settings": asdict(model.settings),
        "modalities": list(model.modalities),
        "schedule": {"total_steps": 12},
        "data": {"seed": 0, "steps": step},
        "versions": {"torch": torch.__version__},
        "base": {
            "language model": language_model_fingerprint(model.layout),
            "frozen adapter": {},
            "frozen segmentation side": frozen_fingerprint(model.segmentation),
        },
    }
