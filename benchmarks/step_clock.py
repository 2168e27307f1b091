"""Time of a step by part, on a CPU or a GPU, and what the card can do at best."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from prs_med.plan.meta_model import MetaModel

PARTS = (
    "CLIP",
    "LM forward",
    "encoder",
    "decoder",
    "losses",
    "segmentation backward",
    "LM backward",
    "optimizer",
)
"""In the order of a step. The language model's part of the backward pass begins when the gradient
of the mask's prompt is there; in the older recipe's first pass it is all of it."""
IN_LANGUAGE_MODEL = ("LM forward", "LM backward")


class Clock:
    """Notes when parts end. On a GPU by events in its stream, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """A step begins."""
        self._marks = []
        self.mark("")

    def mark(self, name: str) -> None:
        """This part has ended."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def read(self) -> dict[str, float]:
        """Milliseconds of each part since the start."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = defaultdict(float)
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            if self._device.type == "cuda":
                found[name] += before.elapsed_time(after)
            else:
                found[name] += 1e3 * (after - before)
        return dict(found)


class PartMarks:
    """Within this context a model tells which of its parts have ended."""

    def __init__(self, model: MetaModel, mark: Callable[[str], None]) -> None:
        self._model, self._mark = model, mark
        self._stack = ExitStack()

    def __enter__(self) -> None:
        llava, branch = self._model.mllm.llava, self._model.segmentation
        self._after(llava.model.multi_modal_projector, "CLIP")
        self._after(llava.lm_head, "LM forward")
        self._after(branch.image_encoder, "encoder")
        self._after(branch.cls, "decoder")
        handle = branch.register_forward_pre_hook(self._watch_prompt)
        self._stack.callback(handle.remove)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _after(self, module: nn.Module, name: str) -> None:
        compiled = module._compiled_call_impl
        if compiled is None:
            handle = module.register_forward_hook(lambda *_: self._mark(name))
            self._stack.callback(handle.remove)
            return

        # Hooks of a compiled module are compiled with it, and each new one compiles it anew.
        def called(*inputs: Any, **options: Any) -> Any:
            result = compiled(*inputs, **options)
            self._mark(name)
            return result

        module._compiled_call_impl = called
        self._stack.callback(setattr, module, "_compiled_call_impl", compiled)

    def _watch_prompt(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        prompt: Tensor = inputs[1]
        prompt.register_hook(lambda _: self._mark("segmentation backward"))


def ceilings(device: torch.device) -> dict[str, float]:
    """Measured TFLOP/s of large matrix products by precision, and GB/s of a copy."""
    side = 8192 if device.type == "cuda" else 1024
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        one = torch.randn(side, side, device=device, dtype=dtype)
        found[f"{name} TFLOP/s"] = 2e-12 * side**3 / _seconds(lambda a=one: a @ a, device)
    source = torch.empty(side, side, 8, device=device)
    target = torch.empty_like(source)
    moved = 2e-9 * source.numel() * source.element_size()
    found["copy GB/s"] = moved / _seconds(lambda: target.copy_(source), device)
    return found


def _seconds(work: Any, device: torch.device) -> float:
    clock, times = Clock(device), []
    for _ in range(8):
        clock.start()
        work()
        clock.mark("work")
        times.append(clock.read()["work"])
    return sorted(times)[len(times) // 2] / 1e3
