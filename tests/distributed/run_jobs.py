"""Run by the deepspeed launcher: trains once per entry of the JSON file given last."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prs_med.quiet import quieten

quieten()

import torch  # noqa: E402
from deepspeed.utils import safe_get_full_grad  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from prs_med.settings_io import parse_training_settings  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.engines import Engines, StepResult  # noqa: E402
from prs_med.train.run import run  # noqa: E402

_backward, _step = Engines.backward, Engines.step


def spoil_gradient(plan: dict[str, Any]) -> None:
    """Make a gradient of one side infinite at one micro-batch, on one rank only.

    ``plan``: ``side`` (mllm or segmentation), ``micro_batch`` (counted from 0), ``rank``.
    """
    count = 0

    def backward(self: Engines, loss: torch.Tensor) -> None:
        nonlocal count
        handles = []
        if plan and count == plan["micro_batch"] and torch.distributed.get_rank() == plan["rank"]:
            module = getattr(self, plan["side"]).module
            parameter = next(p for p in module.parameters() if p.requires_grad)
            handles.append(parameter.register_hook(lambda grad: grad * float("inf")))
        count += 1
        _backward(self, loss)
        for handle in handles:
            handle.remove()

    Engines.backward = backward  # type: ignore[method-assign]


def keep_gradients(path: str) -> None:
    """Write the averaged gradients of both sides before the first optimizer step."""
    done = not path

    def step(self: Engines, rate_factor: float) -> StepResult | None:
        nonlocal done
        if not done and self.mllm.is_gradient_accumulation_boundary():
            done = True
            found = {
                f"{side}.{name}": safe_get_full_grad(parameter).float().clone().contiguous()
                for side in ("mllm", "segmentation")
                for name, parameter in getattr(self, side).module.named_parameters()
                if parameter.requires_grad
            }
            if torch.distributed.get_rank() == 0:
                save_file(found, path)
        return _step(self, rate_factor)

    Engines.step = step  # type: ignore[method-assign]


def main() -> None:
    for job in json.loads(Path(sys.argv[-1]).read_text()):
        spoil_gradient(job["spoil"])
        keep_gradients(job["gradients"])
        run(parse_training_settings(job["arguments"], ""))
    distributed.stop()


if __name__ == "__main__":
    main()
