"""The files that hold a model's weights, and the tensors in them, left on disk until used."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_hub import read_json

_CONTAINERS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""File names as transformers writes and looks for them, in its order."""


def weight_files(folder: Path) -> list[Path]:
    """The files that together hold the weights of the model in ``folder``.

    Raises:
        CheckpointError: if there are none, or one that the index names is missing.
    """
    for single, index in _CONTAINERS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _indexed(folder / index)
    names = ", ".join(name for pair in _CONTAINERS for name in pair)
    raise CheckpointError(f"{folder}: holds no weights; it needs one of {names}")


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map with the names of its files")
    files = []
    for name in sorted(set(map(str, weight_map.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name}, which is not a file beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name}: not found, but {index.name} names it")
        files.append(index.parent / name)
    return files


def open_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; no code in it is run.

    They are mapped, not read: their data costs no memory of its own, however many processes of a
    machine open it.

    Raises:
        CheckpointError: if the file is corrupt, or holds anything but named tensors.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as stored:
                return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        # Files of PyTorch before 1.6 are no zip archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: cannot be read as weights: it is damaged, or holds more than tensors "
            "(nothing in it was run)"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file}: cannot be read as weights ({reason})") from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{file}: holds {type(loaded).__name__}, not named tensors")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file}: entry {name!r} is {type(value).__name__}, not a tensor; "
                "is this a file of another kind, such as a training state?"
            )
    return dict(loaded)
