"""Whether fp32 masters belong to the weights that they are saved for.

Checkpoints hold masters, by the names of parameters. Which element of a flat master belongs to
which element of a parameter is DeepSpeed's affair (:mod:`prs_med.train.zero_optimizer`), and an
option of its configuration or a new release may change it. Losses would still be right then, and
all that is saved wrong. So it is tried out before anything is saved: numbers that tell parameters
and elements apart are written to the masters, and must arrive in the weights that the model
computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prs_med.config import SettingError
from prs_med.train import distributed
from prs_med.train.zero_optimizer import (
    OwnedPart,
    flat_masters,
    owned_parts,
    renew_working_weights,
    whole_shape,
    working_weights,
)

_DISTINCT = 251
"""Numbers below it are exact in bf16."""


def check_mapping(engines: Mapping[str, Any], where: str) -> None:
    """Try out, for each engine with an optimizer, where its masters go; they stay as they are.
    Every process must call it.

    Args:
        where: the DeepSpeed configuration, for the message.

    Raises:
        SettingError: on every process, if any finds masters that belong elsewhere.
    """
    for engine in engines.values():
        problem = distributed.first_of(_tried(engine.optimizer, engine.module))
        if problem:
            raise SettingError(
                f"{where}: DeepSpeed {problem}, so that checkpoints would be wrong; remove the "
                "options of zero_optimization that the files in ds_configs do not have"
            )


def _tried(optimizer: Any, module: nn.Module) -> str:
    """What is wrong on this process; empty if nothing is."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    parts = owned_parts(optimizer, [parameter for _, parameter in named])
    masters = flat_masters(optimizer)
    problem = _incomplete(named, parts) or _different(named, parts, masters)
    held = [master.detach().clone() for master in masters]
    for number, part in enumerate(parts):
        if part is not None:
            elements = _elements(masters, part)
            elements.copy_(_told_apart(number, part, elements.device))
    renew_working_weights(optimizer)
    problem = _different(named, parts, masters) or problem
    for master, value in zip(masters, held, strict=True):
        master.detach().copy_(value)
    renew_working_weights(optimizer)
    return problem


def _incomplete(named: list[tuple[str, nn.Parameter]], parts: list[OwnedPart | None]) -> str:
    """Whether some elements have no master on any process, or several."""
    lengths = torch.tensor([part.length if part is not None else 0 for part in parts])
    owned = torch.stack(distributed.gathered(lengths)).sum(0)
    for (name, parameter), count in zip(named, owned.tolist(), strict=True):
        elements = whole_shape(parameter)
        if count != torch.Size(elements).numel():
            return f"keeps {count} masters for {name} with the shape {list(elements)}"
    return ""


def _different(
    named: list[tuple[str, nn.Parameter]], parts: list[OwnedPart | None], masters: list[Tensor]
) -> str:
    """Whether a weight is another one than its master, rounded."""
    problem = ""
    for (name, parameter), part in zip(named, parts, strict=True):
        start, length = (part.start, part.length) if part is not None else (0, 0)
        found = working_weights(parameter, start, length)
        if part is not None and not problem:
            expected = _elements(masters, part).to(found)
            if not torch.equal(found, expected):
                problem = f"keeps the master of {name} elsewhere than this version expects"
    return problem


def _elements(masters: list[Tensor], part: OwnedPart) -> Tensor:
    return masters[part.master].detach()[part.at : part.at + part.length]


def _told_apart(parameter: int, part: OwnedPart, device: torch.device) -> Tensor:
    """Numbers that neighbours in a parameter, and parameters, do not share."""
    elements = torch.arange(part.start, part.start + part.length, device=device)
    return (elements * 7 + parameter * 31 + parameter // _DISTINCT) % _DISTINCT
