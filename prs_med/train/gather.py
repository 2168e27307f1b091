"""Whole fp32 weights from partitioned engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn


def adapter_weights(engine: Any, keep: bool) -> dict[str, Tensor]:
    """What training with LoRA changes in the language model, by name, on the host: fp32 masters,
    or the weights themselves where they are frozen.

    Every rank must call it (parts are gathered one parameter at a time); those with ``keep`` False
    get an empty dictionary.
    """
    adapter = {
        name: parameter
        for name, parameter in _module(engine).named_parameters()
        if "lora_" in name or "modules_to_save" in name
    }
    trained = {name: p for name, p in adapter.items() if p.requires_grad}
    frozen = {name: p for name, p in adapter.items() if not p.requires_grad}
    return _masters(trained, keep) | _weights(frozen, keep)


def all_weights(engine: Any, keep: bool) -> dict[str, Tensor]:
    """All parameters of an engine in its own precision, by name, on the host.

    Every rank must call it, as :func:`adapter_weights`.
    """
    return _weights(dict(_module(engine).named_parameters()), keep)


def unpartitioned_state(engine: Any, keep: bool) -> dict[str, Tensor]:
    """Parameters and buffers of an engine whose weights are whole on every rank (ZeRO-1), trained
    ones as fp32 masters, on the host. Every rank must call it."""
    module = _module(engine)
    trained = _masters({n: p for n, p in module.named_parameters() if p.requires_grad}, keep)
    if not keep:
        return {}
    state = {
        name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()
    }
    return state | trained


def _module(engine: Any) -> nn.Module:
    # A language model that is not trained may have no engine around it.
    module: nn.Module = getattr(engine, "module", engine)
    return module


def _masters(parameters: Mapping[str, nn.Parameter], keep: bool) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        full = safe_get_full_fp32_param(parameter)
        if keep:
            weights[name] = full.detach().to("cpu", torch.float32, copy=True)
    return weights


def _weights(parameters: Mapping[str, nn.Parameter], keep: bool) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        # Does nothing to parameters that ZeRO has not partitioned.
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if keep:
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights
