"""Whole fp32 weights from partitioned engines."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor


def trained_weights(engine: Any, keep: bool) -> dict[str, Tensor]:
    """The fp32 masters of all trained parameters of an engine, by name, on the host.

    Every rank must call it (parts are gathered one parameter at a time); those with ``keep`` False
    get an empty dictionary.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        full = safe_get_full_fp32_param(parameter)
        if keep:
            weights[name] = full.detach().to("cpu", torch.float32, copy=True)
    return weights


def all_weights(engine: Any, keep: bool) -> dict[str, Tensor]:
    """All parameters of an engine in its own precision, by name, on the host.

    Every rank must call it, as :func:`trained_weights`.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        # Does nothing to parameters that ZeRO has not partitioned.
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if keep:
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


def unpartitioned_state(engine: Any, keep: bool) -> dict[str, Tensor]:
    """Parameters and buffers of an engine whose weights are whole on every rank (ZeRO-1), trained
    ones as fp32 masters, on the host. Every rank must call it."""
    trained = trained_weights(engine, keep)
    if not keep:
        return {}
    state = {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in engine.module.state_dict().items()
    }
    return state | trained
