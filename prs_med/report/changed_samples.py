"""Samples on which two evaluations differ, as pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prs_med.report import numbers
from prs_med.report.cases import (
    Case,
    image_picture,
    prediction_picture,
    truth_picture,
    zone_verdict,
)
from prs_med.report.content import Card, Cards, Note, Section


@dataclass(frozen=True)
class ChangedSample:
    """A sample to be shown because the runs differ on it."""

    row_id: str
    run: str
    """Name of the run that differs from the baseline."""
    change: float
    """Its Dice minus the baseline's."""
    cases: Sequence[Case]
    """The sample in each run, the baseline first; each ``title`` is the name of the run."""


def changed_section(changed: Sequence[ChangedSample]) -> Section:
    """Each sample with its question and what every run drew and answered."""
    return Section(
        "changed",
        "Samples that changed most",
        "By Dice, in both directions: the true area in green, what each run drew in orange.",
        [Cards([_card(sample) for sample in changed])]
        if changed
        else [Note("No pictures were asked for, or no sample changed.")],
    )


def _card(sample: ChangedSample) -> Card:
    first = sample.cases[0]
    return Card(
        title=sample.row_id,
        badge=f"Dice {numbers.signed_score(sample.change)}",
        kind="best" if sample.change > 0 else "worst",
        context=f"{first.modality}, {sample.run}",
        pictures=(
            image_picture(first),
            truth_picture(first),
            *(prediction_picture(case, case.title) for case in sample.cases),
        ),
        texts=(
            ("Question", first.question),
            ("Reference answer", "none in the data" if first.answer is None else first.answer),
            *((case.title, _answer_of(case)) for case in sample.cases),
        ),
        scores=tuple(
            (f"Dice, {case.title}", numbers.score(case.scores.get("dice"))) for case in sample.cases
        ),
    )


def _answer_of(case: Case) -> str:
    if case.error is not None:
        return f"failed: {case.error}"
    return f"{case.predicted_answer or '(empty)'} (zone: {zone_verdict(case.zone_correct)})"
