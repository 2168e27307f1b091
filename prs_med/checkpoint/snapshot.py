"""What one process contributes to a checkpoint, in host memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prs_med.checkpoint.manifest import Parameter


@dataclass(frozen=True)
class Fragment:
    """A stretch of a flattened parameter."""

    parameter: int
    """Index among the parameters of its group."""
    start: int
    length: int


@dataclass
class OwnedFragments:
    """What one process holds of the parameters of one optimizer."""

    parameters: list[Parameter]
    """All of the group, on every process the same."""
    fragments: list[Fragment]
    """Those of this process."""
    vectors: dict[str, np.ndarray]
    """By kind: float32, the fragments concatenated."""
    optimizer_steps: int = 0


@dataclass
class Snapshot:
    """Everything that one process contributes. It must not change until it has been written."""

    groups: dict[str, OwnedFragments]
    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    """Whole arrays that are alike on all processes; those of process 0 are kept."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Small files of process 0."""
    state: dict[str, Any] = field(default_factory=dict)
    """JSON values of process 0."""
