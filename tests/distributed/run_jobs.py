"""Run by the deepspeed launcher: trains once per entry of the JSON file given last."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from prs_med.quiet import quieten

quieten()

import torch  # noqa: E402
from deepspeed.utils import (  # noqa: E402
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
)
from safetensors.torch import save_file  # noqa: E402

from prs_med.checkpoint.errors import BrokenCheckpointError  # noqa: E402
from prs_med.checkpoint.reader import CheckpointReader  # noqa: E402
from prs_med.config import SettingError  # noqa: E402
from prs_med.data.records import DataError  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.settings_io import parse_training_settings  # noqa: E402
from prs_med.storage.store import StorageError  # noqa: E402
from prs_med.train import distributed  # noqa: E402
from prs_med.train.checkpoints import Checkpoints  # noqa: E402
from prs_med.train.engines import Engines, StepResult  # noqa: E402
from prs_med.train.run import run  # noqa: E402

_backward, _step = Engines.backward, Engines.step
_resume_from, _finish = Checkpoints.resume_from, Checkpoints.finish
_EXPECTED = (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError)


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

    def step(self: Engines, rate_factor: float, veto: bool = False) -> StepResult | None:
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
        return _step(self, rate_factor, veto)

    Engines.step = step  # type: ignore[method-assign]


def stop_after(steps: int) -> None:
    """Send this process SIGTERM once so many optimizer steps have begun (0: never), on rank 0
    alone: the others must learn of it."""
    done = 0

    def step(self: Engines, rate_factor: float, veto: bool = False) -> StepResult | None:
        nonlocal done
        result = _step(self, rate_factor, veto)
        done += result is not None
        if result is not None and done == steps and torch.distributed.get_rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    if steps:
        Engines.step = step  # type: ignore[method-assign]


def check_restored(path: str) -> None:
    """Compare what a checkpoint holds with what DeepSpeed's own accessors find in the engines after
    it was loaded, and write the number of compared tensors."""

    def resume_from(self: Checkpoints, reader: CheckpointReader) -> None:
        _resume_from(self, reader)
        compared = 0
        for group, engine in self._engines.trained.items():
            # Where DeepSpeed finds the moments of stages 1 and 2, at the first step otherwise.
            getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", lambda: None)()
            for kind in ("master", "exp_avg", "exp_avg_sq"):
                stored = reader.whole(group, kind)
                for name, parameter in engine.module.named_parameters():
                    if not parameter.requires_grad:
                        continue
                    if kind == "master":
                        found = safe_get_full_fp32_param(parameter)
                    else:
                        found = safe_get_full_optimizer_state(parameter, kind)
                    assert torch.equal(found.cpu(), torch.from_numpy(stored[name])), (name, kind)
                    compared += 1
        if torch.distributed.get_rank() == 0:
            Path(path).write_text(str(compared))

    Checkpoints.resume_from = resume_from if path else _resume_from  # type: ignore[method-assign]


def save_by_deepspeed(path: str) -> None:
    """Let DeepSpeed save its engines too, each to its own folder, when training has ended."""

    def finish(self: Checkpoints, *arguments: Any) -> None:
        _finish(self, *arguments)
        for name, engine in self._engines.trained.items():
            engine.save_checkpoint(f"{path}/{name}", tag="last")

    Checkpoints.finish = finish if path else _finish  # type: ignore[method-assign]


def run_or_fail(arguments: list[str], error_file: str) -> None:
    """Train; if that is to fail, then on all processes alike, and keep the message."""
    rank = os.environ["RANK"]
    settings = parse_training_settings([text.replace("{rank}", rank) for text in arguments], "")
    if not error_file:
        run(settings)
        return
    try:
        run(settings)
    except _EXPECTED as error:
        kind = type(error).__name__
        assert distributed.from_rank_zero(kind) == kind
        if rank == "0":
            Path(error_file).write_text(f"{kind}: {error}")
    else:
        raise AssertionError(f"{error_file}: was expected to fail")


def main() -> None:
    for job in json.loads(Path(sys.argv[-1]).read_text()):
        spoil_gradient(job["spoil"])
        keep_gradients(job["gradients"])
        stop_after(job["stop_after"])
        check_restored(job["check_restored"])
        save_by_deepspeed(job["save_by_deepspeed"])
        run_or_fail(job["arguments"], job["error_file"])
    distributed.stop()


if __name__ == "__main__":
    main()
