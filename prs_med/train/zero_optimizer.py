"""All that this project knows of the insides of DeepSpeed's ZeRO optimizers.

They hold fp32 masters, one flat vector per parameter group (in stage 3 per sub-group), of which
each process owns a part. Stages 1 and 2 cut the concatenation of a group's parameters, the working
weights, into equal parts; stage 3 cuts every parameter by itself; both add padding.

There is no public way to reach all of it: the names used are those of DeepSpeed 0.19.
:mod:`prs_med.train.mapping_check` notices at each start whether they still mean what they meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.utils import combine_grad_norm_groups, get_global_norm_of_tensors
from torch import Tensor, nn

from prs_med.config import SettingError


@dataclass(frozen=True)
class OwnedPart:
    """The elements of a parameter whose fp32 masters this process owns."""

    master: int
    """Which of the :func:`flat_masters` holds them."""
    at: int
    """Where in it they begin."""
    start: int
    """First element of the flattened parameter."""
    length: int
    """Number of elements."""


@dataclass(frozen=True)
class _Names:
    """What an optimizer of stage 1 or 2 calls its lists, one entry per parameter group each."""

    masters: str
    groups: str
    """Parameters."""
    flat_groups: str
    """One vector of working weights, of which the parameters are views."""


_OF_STAGE_1_AND_2 = (
    _Names("single_partition_of_fp32_groups", "bit16_groups", "bit16_groups_flat"),
    # Stage 1 in bf16 with gradients in fp32 is an optimizer of its own.
    _Names("fp32_groups_flat_partition", "bf16_groups", "bf16_groups_flat"),
)


def _names(optimizer: Any) -> _Names | None:
    return next((names for names in _OF_STAGE_1_AND_2 if hasattr(optimizer, names.masters)), None)


def flat_masters(optimizer: Any) -> list[Tensor]:
    """The fp32 masters that this process owns (stages 1 to 3, on the device or offloaded).

    Raises:
        SettingError: if the optimizer states lie on NVMe.
    """
    names = _names(optimizer)
    if names is not None:
        return list(getattr(optimizer, names.masters))
    if optimizer.swap_optimizer:
        raise SettingError(
            "optimizer states on NVMe can be neither averaged nor saved: keep them on the device "
            "or the CPU (offload_optimizer.device in the DeepSpeed configuration)"
        )
    return list(optimizer.fp32_partitioned_groups_flat)


def owned_parts(optimizer: Any, parameters: Sequence[nn.Parameter]) -> list[OwnedPart | None]:
    """For each parameter the part of it that this process owns; None where it owns nothing."""
    names = _names(optimizer)
    if names is None:
        return [_part_of_stage_3(optimizer, parameter) for parameter in parameters]
    group_of = {
        id(parameter): index
        for index, group in enumerate(getattr(optimizer, names.groups))
        for parameter in group
    }
    masters, flat_groups = getattr(optimizer, names.masters), getattr(optimizer, names.flat_groups)
    return [
        _part_of_stage_1_or_2(parameter, group, masters[group], flat_groups[group])
        for parameter in parameters
        for group in [group_of[id(parameter)]]
    ]


def _part_of_stage_1_or_2(
    parameter: nn.Parameter, group: int, master: Tensor, flat_group: Tensor
) -> OwnedPart | None:
    # From where the parameter lies: options such as round_robin_gradients and parameter_alignment
    # reorder and pad the group, and DeepSpeed's own _hp_mapping does not know of the first.
    offset = (parameter.data_ptr() - flat_group.data_ptr()) // flat_group.element_size()
    begin = master.numel() * torch.distributed.get_rank()
    first = max(offset, begin)
    length = min(offset + parameter.numel(), begin + master.numel()) - first
    return OwnedPart(group, first - begin, first - offset, length) if length > 0 else None


def _part_of_stage_3(optimizer: Any, parameter: Any) -> OwnedPart | None:
    flat, at, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = padded * torch.distributed.get_rank(parameter.ds_process_group)
    length = min(padded, parameter.ds_numel - start)
    return OwnedPart(flat, at, start, length) if length > 0 else None


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter, of which this process may hold a part only."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def working_weights(parameter: Any, start: int, length: int) -> Tensor:
    """Elements of the flattened parameter as the model computes with them, copied. Every process
    must call it, for any elements."""
    with deepspeed.zero.GatheredParameters(parameter, enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().reshape(-1)[start : start + length].clone()


def renew_working_weights(optimizer: Any) -> None:
    """Make the weights that the model computes with anew from the masters. Every process must
    call it."""
    if hasattr(optimizer, "update_lp_params"):  # stages 1 and 2
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()
    for index in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(index)
    # Small parameters stay whole on every rank between steps.
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def discard_gradients(optimizer: Any) -> None:
    """Forget the gradients of a step that was not taken.

    DeepSpeed does so itself, but with offloaded optimizers of stages 1 and 2 it keeps the fp32
    buffer in which gradients are accumulated, and adds those of the next step to it.
    """
    for gradients in ("averaged_gradients", "all_grad_tensors"):
        kept = getattr(optimizer, gradients, {})
        kept.update(dict.fromkeys(kept))
    for master in flat_masters(optimizer):
        if master.grad is not None:
            master.grad.zero_()


def replace_norm(optimizer: Any, norm: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Have an optimizer clip by ``norm()``, and skip its step where that is not finite, instead of
    by the norm of its own gradients; gives what computes that one."""
    if hasattr(optimizer, "scaled_global_norm"):  # stages 1 and 2
        own_norm: Callable[[], Tensor] = optimizer.scaled_global_norm
        optimizer.scaled_global_norm = lambda norm_type=2: norm()
        return lambda: combine_grad_norm_groups([own_norm()])
    if hasattr(optimizer, "get_grads_for_norm"):  # stage 1 in bf16
        gradients = optimizer.get_grads_for_norm
        optimizer.get_grads_for_norm = lambda for_clipping=False: (
            gradients(for_clipping=True) if for_clipping else ([norm()], {})
        )
        return lambda: get_global_norm_of_tensors(gradients()[0])
    norm_groups = optimizer._get_norm_groups
    optimizer._get_norm_groups = lambda: [norm()]
    return lambda: combine_grad_norm_groups(norm_groups())
