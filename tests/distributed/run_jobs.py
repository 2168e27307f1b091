"""Run by the deepspeed launcher: trains once per entry of the JSON file given last."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import replace
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
from prs_med.train import distributed, mapping_check  # noqa: E402
from prs_med.train.checkpoints import Checkpoints  # noqa: E402
from prs_med.train.engines import Engines, StepResult  # noqa: E402
from prs_med.train.mapping_check import _elements  # noqa: E402
from prs_med.train.run import run  # noqa: E402
from prs_med.train.zero_optimizer import (  # noqa: E402
    OwnedPart,
    flat_masters,
    owned_parts,
    whole_shape,
)

_backward, _step = Engines.backward, Engines.step
_resume_from, _finish = Checkpoints.resume_from, Checkpoints.finish
_EXPECTED = (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError)


def spoil_gradient(plan: dict[str, Any]) -> None:
    """Make a gradient of one side infinite, or NaN, at one micro-batch, on one rank only.

    ``plan``: ``side`` (mllm or segmentation), ``micro_batch`` (counted from 0), ``rank``, and
    ``factor`` (inf by default).
    """
    count = 0
    factor = float(plan.get("factor", "inf"))

    def backward(self: Engines, loss: torch.Tensor) -> None:
        nonlocal count
        handles = []
        if plan and count == plan["micro_batch"] and torch.distributed.get_rank() == plan["rank"]:
            module = getattr(self, plan["side"]).module
            parameter = next(p for p in module.parameters() if p.requires_grad)
            handles.append(parameter.register_hook(lambda grad: grad * factor))
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


def stop_after(steps: int, name: str) -> None:
    """Send this process a signal once so many optimizer steps have begun (0: never), on rank 0
    alone: the others must learn of it."""
    done = 0

    def step(self: Engines, rate_factor: float, veto: bool = False) -> StepResult | None:
        nonlocal done
        result = _step(self, rate_factor, veto)
        done += result is not None
        if result is not None and done == steps and torch.distributed.get_rank() == 0:
            os.kill(os.getpid(), signal.Signals[name])
        return result

    if steps:
        Engines.step = step  # type: ignore[method-assign]


def discard_or_leave_out(veto_step: int, without_step: int) -> None:
    """Veto one step, or have it make no gradients and change nothing, both counted from 1."""
    done, parts = 0, 0
    backward_of_all = Engines.backward

    def backward(self: Engines, loss: torch.Tensor) -> None:
        if done + 1 != without_step:
            backward_of_all(self, loss)

    def step(self: Engines, rate_factor: float, veto: bool = False) -> StepResult | None:
        nonlocal done, parts
        if done + 1 == without_step:
            parts += 1
            if parts < self.segmentation.gradient_accumulation_steps():
                return None
            result: StepResult | None = StepResult(False, math.inf, math.inf, math.inf)
        else:
            result = _step(self, rate_factor, veto or done + 1 == veto_step)
        done += result is not None
        return result

    if veto_step or without_step:
        Engines.backward = backward  # type: ignore[method-assign]
        Engines.step = step  # type: ignore[method-assign]


def swap_masters(wanted: bool) -> None:
    """Have the check of masters expect those of two parameters that start as zeros, such as two
    LoRA matrices, in each other's places, as if DeepSpeed put them there."""

    def swapped(optimizer: Any, parameters: Any) -> list[OwnedPart | None]:
        parts = owned_parts(optimizer, parameters)
        zeros = [
            number
            for number, part in enumerate(parts)
            if part and not _elements(flat_masters(optimizer), part).any()
        ]
        pairs = [
            (one, other)
            for one in zeros
            for other in zeros
            if one < other
            and whole_shape(parameters[one]) == whole_shape(parameters[other])
            and (parts[one].start, parts[one].length) == (parts[other].start, parts[other].length)
        ]
        if not pairs:
            return parts
        one, other = pairs[0]
        parts[one], parts[other] = (
            replace(parts[one], master=parts[other].master, at=parts[other].at),
            replace(parts[other], master=parts[one].master, at=parts[one].at),
        )
        return parts

    mapping_check.owned_parts = swapped if wanted else owned_parts


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

    def finish(self: Checkpoints, *arguments: Any, **more: Any) -> None:
        _finish(self, *arguments, **more)
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
        discard_or_leave_out(job["veto_step"], job["without_step"])
        swap_masters(job["swap_masters"])
        stop_after(job["stop_after"], job["stop_by"])
        check_restored(job["check_restored"])
        save_by_deepspeed(job["save_by_deepspeed"])
        run_or_fail(job["arguments"], job["error_file"])
    distributed.stop()


if __name__ == "__main__":
    main()
