"""Parameters cut into what each process owns, in the ways of ZeRO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prs_med.checkpoint.manifest import Parameter
from prs_med.checkpoint.snapshot import Fragment, OwnedFragments

Cut = Callable[[list[Parameter], int], list[list[Fragment]]]
"""From parameters and a number of processes to the fragments of each process."""


def zero2(parameters: list[Parameter], world: int) -> list[list[Fragment]]:
    """The concatenation in equal parts, the last one padded."""
    part = -(-sum(p.numel for p in parameters) // world)
    return [stretch(parameters, rank * part, (rank + 1) * part) for rank in range(world)]


def zero3(parameters: list[Parameter], world: int) -> list[list[Fragment]]:
    """Each parameter in equal parts, the last ones padded or empty."""
    owned: list[list[Fragment]] = [[] for _ in range(world)]
    for number, parameter in enumerate(parameters):
        part = -(-parameter.numel // world)
        for rank in range(world):
            start = min(rank * part, parameter.numel)
            end = min(start + part, parameter.numel)
            if start < end:
                owned[rank].append(Fragment(number, start, end - start))
    return owned


def stretch(parameters: list[Parameter], first: int, end: int) -> list[Fragment]:
    """The fragments between two elements of the concatenation."""
    fragments, offset = [], 0
    for number, parameter in enumerate(parameters):
        start, stop = max(first, offset), min(end, offset + parameter.numel)
        if start < stop:
            fragments.append(Fragment(number, start - offset, stop - start))
        offset += parameter.numel
    return fragments


def element_numbers(parameters: list[Parameter], fragments: list[Fragment]) -> np.ndarray:
    """Which elements of the concatenation the fragments are, one after the other."""
    offsets = np.cumsum([0, *(p.numel for p in parameters)])
    parts = [
        np.arange(offsets[f.parameter] + f.start, offsets[f.parameter] + f.start + f.length)
        for f in fragments
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def owned_part(
    parameters: list[Parameter], fragments: list[Fragment], whole: dict[str, np.ndarray]
) -> OwnedFragments:
    """What a process holds of the concatenations in ``whole``, by kind."""
    numbers = element_numbers(parameters, fragments)
    vectors = {kind: vector[numbers] for kind, vector in whole.items()}
    return OwnedFragments(parameters, fragments, vectors)
