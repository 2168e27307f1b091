"""Steps of several recipes, timed in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from benchmarks.step_clock import Clock, PartMarks
from benchmarks.step_recipes import Variant
from prs_med.batch import Batch

WARM_UP = 2
"""Steps that are not counted; the last one tells the peak of memory."""


@dataclass
class StepTimes:
    """Of one recipe."""

    questions: int
    """In a step."""
    tokens: int
    """That the language model computes in a step; in `two_pass` each twice, and counted once."""
    milliseconds: list[float] = field(default_factory=list)
    """One entry a round, as in the other recipes' lists."""
    parts: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0
    """On a GPU."""
    failure: str = ""
    """Why it could not be measured; empty if it was."""

    def median_of(self, part: str) -> float:
        """Milliseconds."""
        return statistics.median(each.get(part, 0.0) for each in self.parts)

    def share_of(self, parts: Collection[str]) -> float:
        """Of the time, for these parts together; a median."""
        return statistics.median(
            sum(each.get(part, 0.0) for part in parts) / sum(each.values()) for each in self.parts
        )


def measure(
    variants: Mapping[str, Variant],
    batches: Mapping[str, Batch],
    rounds: int,
    after_round: Callable[[], object],
    seconds: float = math.inf,
) -> dict[str, StepTimes]:
    """Rounds in which each recipe takes a step, after steps that are not counted.

    No round begins once ``seconds`` have passed, if there has been one; an interrupt (Ctrl-C) ends
    them, too. A recipe that fails in its first steps, as when it needs more memory than there is,
    or that is interrupted there, takes no part.
    """
    begun = time.monotonic()
    steps = {name: _TimedStep(variant, batches[name]) for name, variant in variants.items()}
    for step in steps.values():
        step.warm_up()
    names = [name for name, step in steps.items() if not step.times.failure]
    with suppress(KeyboardInterrupt):
        for number in range(rounds if names else 0):
            first = number % len(names)
            order = names[first:] + names[:first]
            # A GPU never waits for the host between two steps of a training, so not here either.
            taken = [(name, steps[name].take()) for name in order]
            for name, parts in [(name, clock.read()) for name, clock in taken]:
                steps[name].times.parts.append(parts)
                steps[name].times.milliseconds.append(sum(parts.values()))
            after_round()
            if time.monotonic() - begun > seconds:
                break
    return {name: step.times for name, step in steps.items()}


class _TimedStep:
    def __init__(self, variant: Variant, batch: Batch) -> None:
        self._variant, self._batch = variant, batch
        self._device = batch.input_ids.device
        trained = [p for p in variant.parameters() if p.requires_grad]
        fused = variant.recipe.fused_adamw
        self._optimizer = torch.optim.AdamW(trained, lr=0.0, fused=fused)
        self.times = StepTimes(len(batch), int(batch.attention_mask.sum()))

    def warm_up(self) -> None:
        on_gpu = self._device.type == "cuda"
        try:
            for _ in range(WARM_UP):
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                self._run(Clock(self._device))
                if on_gpu:
                    torch.cuda.synchronize()
                    self.times.peak_bytes = torch.cuda.max_memory_allocated()
        except (RuntimeError, ModuleNotFoundError, KeyboardInterrupt) as error:
            words = str(error).splitlines() or ["by the user"]
            self.times.failure = f"{type(error).__name__}: {words[0]}"
            self._optimizer.zero_grad(set_to_none=True)

    def take(self) -> Clock:
        """A step; what knows how long its parts take."""
        clock = Clock(self._device)
        self._run(clock)
        return clock

    def _run(self, clock: Clock) -> None:
        with PartMarks(self._variant.model, clock.mark):
            clock.start()
            self._variant.run(self._batch, clock.mark)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            clock.mark("optimizer")
