"""Steps of several recipes, timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.step_clock import Clock, PartMarks
from benchmarks.step_recipes import Variant
from prs_med.batch import Batch

WARM_UP = 3


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

    def median_of(self, part: str) -> float:
        """Milliseconds."""
        return statistics.median(each.get(part, 0.0) for each in self.parts)


def measure(
    variants: Mapping[str, Variant],
    batches: Mapping[str, Batch],
    rounds: int,
    after_round: Callable[[], object],
) -> dict[str, StepTimes]:
    """Rounds in which each recipe takes a step, after steps that are not counted."""
    steps = {name: _TimedStep(variant, batches[name]) for name, variant in variants.items()}
    names = list(variants)
    for name in names:
        steps[name].warm_up()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            steps[name].take()
        after_round()
    return {name: step.times for name, step in steps.items()}


class _TimedStep:
    def __init__(self, variant: Variant, batch: Batch) -> None:
        self._variant, self._batch = variant, batch
        self._device = batch.input_ids.device
        trained = [p for p in variant.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
        self.times = StepTimes(len(batch), int(batch.attention_mask.sum()))

    def warm_up(self) -> None:
        for _ in range(WARM_UP):
            self._run(Clock(self._device))
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._run(Clock(self._device))
            torch.cuda.synchronize()
            self.times.peak_bytes = torch.cuda.max_memory_allocated()

    def take(self) -> None:
        clock = Clock(self._device)
        self._run(clock)
        parts = clock.read()
        self.times.parts.append(parts)
        self.times.milliseconds.append(sum(parts.values()))

    def _run(self, clock: Clock) -> None:
        with PartMarks(self._variant.model, clock):
            clock.start()
            self._variant.run(self._batch, clock.mark)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            clock.mark("optimizer")
