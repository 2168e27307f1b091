"""Which of the candidates to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prs_med.plan.candidates import Candidate
from prs_med.plan.hardware import Cluster

_WORTH_IT = 0.95
"""The simplest candidate is taken whose speed is at least this share of the fastest one's."""


@dataclass(frozen=True)
class Recommendation:
    """A candidate and its micro-batch."""

    candidate: Candidate
    batch: int
    largest: int
    """The largest micro-batch that fits."""


def recommend(found: Sequence[Candidate], cluster: Cluster, most: int) -> Recommendation | None:
    """The simplest of the nearly fastest candidates that fit; None if none fits.

    Args:
        found: the simplest first.
        most: no larger micro-batch is recommended.
    """
    fitting = [
        Recommendation(candidate, min(largest, most), largest)
        for candidate in found
        if (largest := candidate.largest_batch(cluster.card.memory, cluster.gpus))
    ]
    if not fitting:
        return None
    speeds = [each.candidate.speed(each.batch, cluster).middle for each in fitting]
    enough = _WORTH_IT * max(speeds)
    return next(each for each, speed in zip(fitting, speeds, strict=True) if speed >= enough)
