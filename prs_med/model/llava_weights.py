"""The weights of a LLaVA folder under the names of the running model, checked before use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_files import open_tensors, weight_files
from prs_med.model.llava_names import VISION, clip_running_name, running_name


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk and where it lies."""

    file: Path
    name: str
    value: Tensor


def stored_tensors(
    folder: Path, rename: Callable[[str], str | None] = running_name
) -> dict[str, StoredTensor]:
    """All tensors that ``folder`` holds, by the name ``rename`` gives them (None: left out).

    Raises:
        CheckpointError: if files are missing or corrupt, or two tensors have the same name.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for name, value in open_tensors(file).items():
            new = rename(name)
            if new is None:
                continue
            if new in found:
                other = found[new]
                raise CheckpointError(
                    f"{file}: {name} is stored twice, the other time as {other.name} "
                    f"in {other.file}"
                )
            found[new] = StoredTensor(file, name, value)
    return found


def tensors_with_tower(folder: Path, vision_folder: Path | None) -> dict[str, StoredTensor]:
    """All tensors of a model by their names in the running one, the vision tower's from
    ``vision_folder`` if there is one; what they should be is not compared.

    Raises:
        CheckpointError: as :func:`stored_tensors`.
    """
    stored = stored_tensors(folder)
    if vision_folder is None:
        return stored
    others = {name: tensor for name, tensor in stored.items() if not name.startswith(VISION)}
    return others | stored_tensors(vision_folder, clip_running_name)


def read_weights(
    folder: Path, config: LlavaConfig, vision_folder: Path | None
) -> dict[str, Tensor]:
    """All weights of the model that ``config`` describes, by its names, mapped from disk.

    Args:
        vision_folder: a CLIP model whose vision tower takes the place of the one in ``folder``.

    Of tied weights, which transformers stores once, both names are given.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape.
    """
    stored = tensors_with_tower(folder, vision_folder)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    for name, source in model.all_tied_weights_keys.items():
        if name not in stored and source in stored:
            stored[name] = stored[source]
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _refuse_unfitting(folder, vision_folder, stored, expected)
    return {name: tensor.value for name, tensor in stored.items()}


def _refuse_unfitting(
    folder: Path,
    vision_folder: Path | None,
    stored: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    missing = sorted(expected.keys() - stored.keys())
    left_over = [stored[name] for name in sorted(stored.keys() - expected.keys())]
    reshaped = [
        f"{_place(tensor)} has {tuple(tensor.value.shape)} instead of {expected[name]}"
        for name, tensor in sorted(stored.items())
        if name in expected and tuple(tensor.value.shape) != expected[name]
    ]
    problems = {
        "missing": missing,
        "unexpected": [_place(tensor) for tensor in left_over],
        "of another shape": reshaped,
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        where = f"{folder} with the CLIP tower of {vision_folder}" if vision_folder else folder
        raise CheckpointError(
            f"{where}: weights do not fit the model that config.json describes; " + "; ".join(found)
        )


def _place(tensor: StoredTensor) -> str:
    return f"{tensor.name} in {tensor.file.name}"


def _some(names: list[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
