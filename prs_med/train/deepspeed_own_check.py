"""What DeepSpeed itself finds wrong in a configuration, before a model is built."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
from deepspeed.monitor.config import get_monitor_config
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import get_bfloat16_config
from deepspeed.runtime.zero.config import get_zero_config

_MONITORS = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
"""The package that each needs."""
_REMARKS = ("_", "//", "#", "$")
"""How keys begin that are comments."""


def conflicts(config: dict[str, Any]) -> list[str]:
    """One line for each conflict, naming key and value.

    Args:
        config: as :func:`prs_med.train.deepspeed_config.load_deepspeed_config` resolves it.
    """
    sections: dict[str, Callable[[dict[str, Any]], object]] = {
        "zero_optimization.": get_zero_config,
        "bf16.": get_bfloat16_config,
        "": get_monitor_config,
    }
    found = [line for name, read in sections.items() for line in _of_section(name, read, config)]
    return [*found, *_of_monitors(config), *(_of_the_rest(config) if not found else [])]


def _of_section(
    prefix: str, read: Callable[[dict[str, Any]], object], config: dict[str, Any]
) -> Iterator[str]:
    try:
        read(copy.deepcopy(config))
    except pydantic.ValidationError as error:
        for one in error.errors():
            name = prefix + ".".join(map(str, one["loc"]))
            if one["type"] == "extra_forbidden":
                yield f"DeepSpeed has no {name}; remove it"
            else:
                yield f"{name.rstrip('.')} is {one['input']!r}: {_one_line(one['msg'])}"
    except Exception as error:
        yield f"{prefix.rstrip('.') or 'monitors'}: {_one_line(error)}"


def _of_monitors(config: dict[str, Any]) -> Iterator[str]:
    for key, package in _MONITORS.items():
        wanted = config.get(key, {}).get("enabled")
        if wanted is True and importlib.util.find_spec(package) is None:
            yield (
                f"{key}.enabled is true, but the package {package} is not installed: install it, "
                "or remove the monitor"
            )


def _of_the_rest(config: dict[str, Any]) -> Iterator[str]:
    """What whole configurations alone show, and keys that DeepSpeed never looks at."""
    read = _Watched(copy.deepcopy(config))
    # The number of processes may be another one than here, and batches fit it already.
    for key in ("train_batch_size", "gradient_accumulation_steps"):
        read.pop(key)
    try:
        DeepSpeedConfig(read)
    except Exception as error:
        yield f"DeepSpeed cannot use it: {_one_line(error)}"
        return
    for key in sorted(config.keys() - read.seen):
        if not key.startswith(_REMARKS):
            yield f"DeepSpeed has no {key}; remove it"


class _Watched(dict[str, Any]):
    """A configuration that knows which of its keys were asked for."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.seen = {"train_batch_size", "gradient_accumulation_steps"}

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As that of every dict."""
        self.seen.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        """Itself, so that it sees what is looked for among its keys."""
        return self


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
