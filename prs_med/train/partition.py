"""Move a model to the devices of all processes in shares (ZeRO-3).

DeepSpeed by itself moves the whole model to every device and divides it there, so that what does
not fit into one device would not even start. Here one parameter after the other goes there, is
quantised if it is to be, and is divided before the next one comes: a device never holds more than
its share and one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

_CASTABLE = (torch.float32, torch.float16, torch.bfloat16)


def is_partitioned(config: Mapping[str, Any]) -> bool:
    """Whether a DeepSpeed configuration divides the weights themselves (stage 3)."""
    return bool(config["zero_optimization"]["stage"] == 3)


def partition(module: nn.Module, config: dict[str, Any]) -> None:
    """Leave of each parameter the share of this process, on its device or where ``offload_param``
    keeps it, in the engine's precision; and move the buffers, which stay whole. Every process must
    call it.

    Args:
        config: of the engine that the module is for, at stage 3.
    """
    device = torch.device(get_accelerator().current_device_name())
    dtype = torch.bfloat16 if config["bf16"]["enabled"] else torch.float32
    divided: Any = None
    for parameter in module.parameters():
        _move(parameter, device, dtype)
        if divided is None:
            holder = nn.ParameterList([parameter])
            deepspeed.zero.Init(module=holder, config_dict_or_path=config)
        else:
            divided.convert_to_zero_parameters(param_list=[parameter])
        divided = parameter
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def _move(parameter: nn.Parameter, device: torch.device, dtype: torch.dtype) -> None:
    new = dtype if parameter.dtype in _CASTABLE else parameter.dtype
    # Always a copy: DeepSpeed writes what the first process has into it, and pages of a mapped file
    # that are written to become memory of this process.
    parameter.data = parameter.data.to(device, new, copy=True)
    if getattr(parameter, "bnb_quantized", None) is False:
        parameter.to(device)  # quantises it in its place
