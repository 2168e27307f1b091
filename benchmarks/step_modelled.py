"""The time that the planner's model of a card expects of what a step counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmarks.step_clock import IN_LANGUAGE_MODEL, PARTS
from benchmarks.step_counts import Counts
from prs_med.plan.hardware import Card
from prs_med.plan.op_trace import Part
from prs_med.plan.ranges import BEST, WORST, Efficiency, Range
from prs_med.plan.step_time import operation_seconds, units_of

_PLANNED = {
    "CLIP": Part.CLIP,
    "LM forward": Part.LANGUAGE_MODEL,
    "encoder": Part.ENCODER,
    "decoder": Part.DECODER,
    "losses": Part.LOSSES,
    "segmentation backward": Part.ENCODER,
    "LM backward": Part.LANGUAGE_MODEL,
}
"""The planner's name of each part; what it tells apart matters for the rates that are reached."""


def modelled(counts: Counts, card: Card) -> dict[str, Range]:
    """Seconds of each part of a step, without an optimizer."""
    best, worst = (_seconds(counts, card, efficiency) for efficiency in (BEST, WORST))
    return {
        name: Range(
            float(best[counts.names == name].sum()), float(worst[counts.names == name].sum())
        )
        for name in PARTS
        if name in _PLANNED
    }


def _seconds(counts: Counts, card: Card, efficiency: Efficiency) -> np.ndarray:
    trace, parts = counts.trace, np.array([_PLANNED[name] for name in counts.names])
    units = units_of(trace.unit, parts, counts.arithmetic)
    return operation_seconds(parts, trace.flops, trace.moved, card, efficiency, units)


def print_model(
    found: Mapping[str, Counts], questions: Mapping[str, int], card: Card, baseline: str
) -> None:
    """A table of milliseconds, from the best case to the worst; ``questions`` are those of a step,
    and ``baseline`` is what questions in the same time are compared with."""
    seconds = {name: modelled(counts, card) for name, counts in found.items()}
    steps = {name: _sum(of.values()) for name, of in seconds.items()}
    print(
        f"\n| recipe | ms of a step on {card.name} (model) | outside the LM "
        f"| questions/s to `{baseline}` | {' | '.join(_PLANNED)} |\n"
        f"|---|---|---|---|{'---|' * len(_PLANNED)}"
    )
    for name, of in seconds.items():
        inside = _sum(of[part] for part in IN_LANGUAGE_MODEL)
        outside = [1 - inside.best / steps[name].best, 1 - inside.worst / steps[name].worst]
        faster = ""
        if baseline in steps:
            more, base = questions[name] / questions[baseline], steps[baseline]
            ratios = [more * base.best / steps[name].best, more * base.worst / steps[name].worst]
            faster = _between(ratios, ".2f")
        times = [steps[name], *of.values()]
        whole, *parts = [_between([1e3 * each.best, 1e3 * each.worst], ".0f") for each in times]
        print(
            f"| `{name}` | {whole} | {_between(outside, '.0%')} | {faster} | {' | '.join(parts)} |"
        )


def _sum(ranges: Iterable[Range]) -> Range:
    return sum(ranges, start=Range(0, 0))


def _between(values: Sequence[float], form: str) -> str:
    low, high = (format(value, form) for value in sorted(values))
    return low if low == high else f"{low} to {high}"
