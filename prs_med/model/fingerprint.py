"""What a run's frozen weights are, in short: enough to tell another base model from this one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prs_med.model.errors import CheckpointError
from prs_med.model.llava_layouts import LlavaLayout
from prs_med.model.llava_weights import tensors_with_tower

_SAMPLE = 2048
"""Elements looked at from either end of a tensor."""


def language_model_fingerprint(layout: LlavaLayout) -> dict[str, str]:
    """Type, shape and a checksum of parts of every tensor in the files of the base model, by its
    name in the running model. Only these parts are read.

    Raises:
        CheckpointError: the files cannot be read.
    """
    stored = tensors_with_tower(layout.folder, layout.vision_folder)
    return {name: _of(tensor.value) for name, tensor in sorted(stored.items())}


def frozen_fingerprint(module: nn.Module) -> dict[str, str]:
    """The same for a module's parameters that are not trained."""
    return {n: _of(p) for n, p in sorted(module.named_parameters()) if not p.requires_grad}


def weights_fingerprint(*modules: nn.Module) -> str:
    """One digest for all parameters and buffers of some modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            if isinstance(tensor, Tensor):
                digest.update(f"{name} {_of(tensor)}\n".encode())
    return digest.hexdigest()


def check_same(name: str, ours: Mapping[str, str], theirs: Mapping[str, str], where: str) -> None:
    """Refuse frozen weights that are not those of a checkpoint.

    Args:
        name: what the weights are, for the message.

    Raises:
        CheckpointError: saying what differs.
    """
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if not different:
        return
    first = different[0]
    raise CheckpointError(
        f"{where}: was trained on another {name}: {len(different)} of {len({*ours, *theirs})} "
        f"tensors differ, first {first} ({theirs.get(first, 'missing')} in the checkpoint, "
        f"{ours.get(first, 'missing')} here); give the weights that it was trained on"
    )


def _of(tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    crc = 0
    for part in (flat[:_SAMPLE], flat[-_SAMPLE:]):
        crc = zlib.crc32(part.contiguous().cpu().view(torch.uint8).numpy().tobytes(), crc)
    shape = "x".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape} {crc:08x}"
