"""Means with their uncertainty, and differences between runs.

Questions about one image, and images of one patient, are not independent. Where groups are given,
the bootstrap draws whole groups: an interval that draws questions would be too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
# So many draws at a time take some 30 MB.
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Summary:
    """Mean of the values that are defined."""

    n: int
    """How many values are defined; those that are None are not among them."""
    groups: int
    """Into how many independent groups they fall."""
    mean: float | None
    """None where no value is defined."""
    sd: float | None
    """Sample standard deviation of the values; None for fewer than two."""
    low: float | None
    """Lower end of the 95 % percentile bootstrap interval of the mean; None for fewer than two
    groups, which tell nothing about others."""
    high: float | None
    """Upper end."""


def summarise_values(
    values: Sequence[float | bool | None],
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Summary:
    """Mean, standard deviation and interval of some values.

    The interval holds the middle 95 % of the means of ``resamples`` data sets, each drawn with
    replacement from the groups. A drawn group brings all its values along, so that, as in the mean
    itself, every value weighs the same.

    Args:
        values: scores; None where a score is not defined, True and False as 1 and 0.
        groups: the image or patient of each value; without them each value is its own.
        resamples: 1 or more.
        seed: the same arguments give the same interval, with any number of processes.

    Raises:
        ValueError: not one group for each value, a value is not finite, or no resamples.
    """
    if groups is None:
        groups = range(len(values))
    if len(groups) != len(values):
        raise ValueError(f"{len(values)} values need as many groups, not {len(groups)}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    defined = [
        (value, group) for value, group in zip(values, groups, strict=True) if value is not None
    ]
    numbers = np.array([value for value, _ in defined], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not a finite number; use None where a score is not defined")
    if not defined:
        return Summary(0, 0, None, None, None, None)
    sums, counts = _group_sums(numbers, [group for _, group in defined])
    low, high = _interval(sums, counts, resamples, seed)
    return Summary(
        n=len(numbers),
        groups=len(sums),
        mean=float(numbers.mean()),
        sd=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        low=low,
        high=high,
    )


@dataclass(frozen=True)
class PairedDifference:
    """How one run differs from another on the samples that both answer."""

    difference: Summary
    """Of the second run minus the first, sample by sample."""
    first: Summary
    """Of the first run on the same samples."""
    second: Summary
    """Of the second run on the same samples."""
    left_out: int
    """Samples that only one run has, or whose score is not defined in both."""
    changes: tuple[tuple[str, float], ...]
    """Samples with their difference, the largest change first, whichever its sign."""


def paired_difference(
    first: Mapping[str, float | bool | None],
    second: Mapping[str, float | bool | None],
    groups: Mapping[str, Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs on the samples for which both have a score.

    Args:
        first: sample to score of one run; None where it is not defined.
        second: the same of the other.
        groups: the image or patient of each sample; without them each sample is its own.
        resamples: data sets drawn for each interval.
        seed: of the draws; the runs and their difference are drawn alike.

    Raises:
        ValueError: a score is not finite.
        KeyError: a shared sample has no group.
    """
    shared = _shared((first, second))
    a, b = (_scores_of(run, shared) for run in (first, second))
    of_samples = [sample if groups is None else groups[sample] for sample in shared]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    changes = sorted(
        zip(shared, differences, strict=True), key=lambda item: (-abs(item[1]), item[0])
    )
    summaries = (
        summarise_values(values, of_samples, resamples, seed) for values in (differences, a, b)
    )
    difference, of_first, of_second = summaries
    left_out = len({*first, *second}) - len(shared)
    return PairedDifference(difference, of_first, of_second, left_out, tuple(changes))


def paired_differences(
    runs: Mapping[str, Mapping[str, float | bool | None]],
    groups: Mapping[str, Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Compare each run but the first with the first, all on the samples that every run has.

    Args:
        runs: name of the run to its scores by sample, two runs or more.
        groups, resamples, seed: as in :func:`paired_difference`.

    Returns:
        The later runs in their order. ``left_out`` counts the samples of any run that not all have.

    Raises:
        ValueError: fewer than two runs, or a score is not finite.
        KeyError: a shared sample has no group.
    """
    if len(runs) < 2:
        raise ValueError(f"two runs or more can be compared, got {len(runs)}")
    shared = _shared(tuple(runs.values()))
    left_out = len({sample for run in runs.values() for sample in run}) - len(shared)
    common = {name: {sample: run[sample] for sample in shared} for name, run in runs.items()}
    baseline, *others = common
    compared = {}
    for name in others:
        pair = paired_difference(common[baseline], common[name], groups, resamples, seed)
        compared[name] = replace(pair, left_out=left_out)
    return compared


def _shared(runs: Sequence[Mapping[str, float | bool | None]]) -> list[str]:
    """The samples for which every run has a score, in the first run's order."""
    return [sample for sample in runs[0] if all(run.get(sample) is not None for run in runs)]


def _scores_of(run: Mapping[str, float | bool | None], samples: Sequence[str]) -> list[float]:
    """The scores of samples that all have one."""
    return [float(score) for score in map(run.get, samples) if score is not None]


def _group_sums(values: np.ndarray, groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, in the order in which groups first appear."""
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(group, len(number)) for group in groups])
    return np.bincount(index, weights=values), np.bincount(index)


def _interval(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    if len(sums) < 2:
        return None, None
    means = np.concatenate(list(_drawn_means(sums, counts, resamples, seed)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _drawn_means(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    for start in range(0, resamples, at_once):
        drawn = random.integers(len(sums), size=(min(at_once, resamples - start), len(sums)))
        yield sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
