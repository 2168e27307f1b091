"""The weights in a training checkpoint, by the names of the parameters in the running model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prs_med.checkpoint.reader import CheckpointReader
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments

MLLM, SEGMENTATION = "mllm", "segmentation"


@dataclass(frozen=True)
class StoredWeights:
    """What of the model a checkpoint holds: all that was trained, statistics, and adapters."""

    mllm: dict[str, Tensor]
    segmentation: dict[str, Tensor]


def read_stored_weights(reader: CheckpointReader, average: bool) -> StoredWeights:
    """Read the moving average of the trained weights, or their fp32 masters.

    Raises:
        BrokenCheckpointError, StorageError: the checkpoint cannot be read.
    """
    kind = "average" if average else "master"
    trained = {group: _read_group(reader, group, kind) for group in reader.manifest.groups}
    whole = {name: torch.from_numpy(v.copy()) for name, v in reader.buffers().items()}
    return StoredWeights(
        *(trained.get(side, {}) | _under(whole, f"{side}/") for side in (MLLM, SEGMENTATION))
    )


def _read_group(reader: CheckpointReader, group: str, kind: str) -> dict[str, Tensor]:
    # All at once: neighbours in a shard are then read together, which counts on S3.
    parameters = reader.manifest.groups[group].parameters
    vector = np.empty(sum(parameter.numel for parameter in parameters), np.float32)
    fragments = [Fragment(number, 0, p.numel) for number, p in enumerate(parameters)]
    reader.fill(group, OwnedFragments(parameters, fragments, {kind: vector}))
    pieces = torch.from_numpy(vector).split([parameter.numel for parameter in parameters])
    return {
        parameter.name: piece.reshape(parameter.shape)
        for parameter, piece in zip(parameters, pieces, strict=True)
    }


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
