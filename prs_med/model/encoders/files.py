"""Reading weight files safely and strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from prs_med.model.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file by name; no code in the file is run.

    Raises:
        CheckpointError: if the file is missing, corrupt, or holds anything but named tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot be read as weights ({reason})") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not named tensors")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is {type(value).__name__}, not a tensor; "
                "is this a file of another model?"
            )
    return dict(loaded)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load ``state`` into ``module``: nothing missing, nothing left over, every shape equal.

    Raises:
        CheckpointError: listing all that does not fit.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(set(own) - set(state)),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": sorted(
            name for name in own.keys() & state.keys() if own[name].shape != state[name].shape
        ),
    }
    found = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{where}: weights do not fit; " + "; ".join(found))
    module.load_state_dict(state)
