"""What DeepSpeed's ZeRO optimizers hold: fp32 masters, one flat vector per parameter group.

There is no public way to reach them all: the names used are those of DeepSpeed 0.19, and
tests/distributed fails if a release renames them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prs_med.config import SettingError


def flat_masters(optimizer: Any) -> list[Tensor]:
    """The fp32 masters that this process owns (stages 1 to 3, on the device or offloaded).

    Raises:
        SettingError: if the optimizer states lie on NVMe.
    """
    if is_stage_1_or_2(optimizer):
        return list(optimizer.single_partition_of_fp32_groups)
    if optimizer.swap_optimizer:
        raise SettingError(
            "optimizer states on NVMe can be neither averaged nor saved: keep them on the device "
            "or the CPU (offload_optimizer.device in the DeepSpeed configuration)"
        )
    return list(optimizer.fp32_partitioned_groups_flat)


def is_stage_1_or_2(optimizer: Any) -> bool:
    """Whether masters are partitions of whole groups; in stage 3, of single parameters."""
    return hasattr(optimizer, "single_partition_of_fp32_groups")


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
