"""Compare evaluations of the same questions, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prs_med.evaluate.statistics import RESAMPLES, PairedDifference, paired_differences

METRICS = (
    "dice",
    "iou",
    "hd95",
    "zone_correct",
    "near_center_correct",
    "answer_agrees_with_mask",
    "answer_unclear",
    "rouge_l",
)
"""What is compared, as the rows name it."""
CHANGED = 6
"""Samples named in each direction, unless the caller wants others."""
_SAME_DATA = ("answer", "true_area")
_SAME_SOURCE = ("data", "split")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One evaluation."""

    name: str
    """For tables; no two runs have the same."""
    metrics: dict[str, Any]
    """Its ``metrics.json``."""
    rows: Sequence[Row]
    """One per question, as in its ``per_sample.parquet``."""


def compare_runs(
    runs: Sequence[Run], changed: int = CHANGED, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Compare each run but the first with the first, on the samples that every run has.

    Samples are matched by their ``row_id``; modality and group are those of the first run.

    Args:
        runs: two or more, the baseline first.
        changed: how many of the samples that changed most are named in each direction.
        resamples: data sets drawn for each interval.

    Returns:
        A dictionary of JSON values: ``baseline`` and ``others`` (names), ``evaluations`` (settings
        by name), ``samples`` and ``shared`` (how many each run and all runs have), ``warnings``,
        ``all`` and ``modalities`` (name, score and other run to a paired difference without its
        single changes), and ``changed`` (other run to ``better`` and ``worse``, by Dice).

    Raises:
        ValueError: fewer than two runs, two of one name, a ``row_id`` twice in a run, no sample
            that all runs have, or one that has another reference answer or true area in another
            run.
    """
    _check_names(runs)
    by_id = {run.name: _by_row_id(run) for run in runs}
    baseline, *others = by_id
    shared = [row for row in by_id[baseline] if all(row in rows for rows in by_id.values())]
    if not shared:
        raise ValueError(
            f"the runs {', '.join(by_id)} share no sample: no row_id is in all of them"
        )
    for other in others:
        _check_same_data(baseline, by_id[baseline], other, by_id[other], shared)
    modalities = sorted({row["modality"] for rows in by_id.values() for row in rows.values()})
    return {
        "version": 1,
        "baseline": baseline,
        "others": others,
        "evaluations": {run.name: run.metrics["evaluation"] for run in runs},
        "samples": {name: len(rows) for name, rows in by_id.items()},
        "shared": len(shared),
        "warnings": _warnings(runs),
        "all": _compared(by_id, resamples),
        "modalities": {
            name: _compared(_of_modality(by_id, name), resamples) for name in modalities
        },
        "changed": {
            other: _most_changed(by_id[baseline], by_id[other], shared, changed) for other in others
        },
    }


def _check_names(runs: Sequence[Run]) -> None:
    names = [run.name for run in runs]
    if len(names) < 2:
        raise ValueError(f"two runs or more can be compared, got {len(names)}")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two runs are named {twice[0]!r}; give each a name of its own")


def _by_row_id(run: Run) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for row in run.rows:
        if row["row_id"] in rows:
            raise ValueError(f"run {run.name}: row_id {row['row_id']!r} appears twice")
        rows[row["row_id"]] = row
    return rows


def _check_same_data(
    first: str, rows: Mapping[str, Row], second: str, others: Mapping[str, Row], shared: list[str]
) -> None:
    for row_id in shared:
        for key in _SAME_DATA:
            here, there = rows[row_id][key], others[row_id][key]
            # A sample that failed may have no area in one run.
            unknown = key == "true_area" and None in (here, there)
            if here != there and not unknown:
                raise ValueError(
                    f"row_id {row_id!r}: {key} is {here!r} in run {first} and {there!r} in run "
                    f"{second}; the runs evaluated different data"
                )


def _warnings(runs: Sequence[Run]) -> list[str]:
    """How the runs' own words about their data differ."""
    found = []
    for key in _SAME_SOURCE:
        named = {run.name: str(run.metrics["evaluation"][key]) for run in runs}
        if len(set(named.values())) > 1:
            listed = ", ".join(f"{value} ({name})" for name, value in named.items())
            found.append(f"The runs do not name the same {key}: {listed}.")
    return found


def _of_modality(
    by_id: Mapping[str, Mapping[str, Row]], modality: str
) -> dict[str, dict[str, Row]]:
    """Each run's samples of a modality, which is that of the first run that has the sample."""
    first: dict[str, str] = {}
    for rows in by_id.values():
        for row_id, row in rows.items():
            first.setdefault(row_id, row["modality"])
    return {
        name: {row_id: row for row_id, row in rows.items() if first[row_id] == modality}
        for name, rows in by_id.items()
    }


def _compared(
    by_id: Mapping[str, Mapping[str, Row]], resamples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score to other run to difference."""
    baseline = next(iter(by_id.values()))
    groups = {row_id: row["group"] for row_id, row in baseline.items()}
    found = {}
    for metric in METRICS:
        scores = {
            name: {row_id: row[metric] for row_id, row in rows.items()}
            for name, rows in by_id.items()
        }
        pairs = paired_differences(scores, groups, resamples)
        compared = [
            row_id
            for row_id in baseline
            if all(run.get(row_id) is not None for run in scores.values())
        ]
        found[metric] = {
            name: _as_json(pair) | _failures((baseline, by_id[name]), compared)
            for name, pair in pairs.items()
        }
    return found


def _as_json(pair: PairedDifference) -> dict[str, Any]:
    return {
        "first": asdict(pair.first),
        "second": asdict(pair.second),
        "difference": asdict(pair.difference),
        "left_out": pair.left_out,
    }


def _failures(pair: Sequence[Mapping[str, Row]], compared: Sequence[str]) -> dict[str, list[int]]:
    """How many questions failed in each run of a pair, of those compared and of those left out."""
    failed = [{row_id for row_id, row in rows.items() if row["error"]} for rows in pair]
    among = [len(one.intersection(compared)) for one in failed]
    return {
        "failures": among,
        "failures_left_out": [len(one) - inside for one, inside in zip(failed, among, strict=True)],
    }


def _most_changed(
    baseline: Mapping[str, Row], other: Mapping[str, Row], shared: Sequence[str], limit: int
) -> dict[str, list[dict[str, Any]]]:
    """The samples whose Dice rose and fell most, largest change first."""
    changes = [
        {
            "row_id": row_id,
            "modality": baseline[row_id]["modality"],
            "first": baseline[row_id]["dice"],
            "second": other[row_id]["dice"],
            "change": other[row_id]["dice"] - baseline[row_id]["dice"],
        }
        for row_id in shared
    ]
    changes.sort(key=lambda change: (change["change"], change["row_id"]))
    return {
        "better": [change for change in reversed(changes) if change["change"] > 0][:limit],
        "worse": [change for change in changes if change["change"] < 0][:limit],
    }
