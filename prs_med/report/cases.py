"""Samples that a report shows as pictures, and which ones to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from prs_med.data.overlay import PREDICTION_COLOUR, TRUTH_COLOUR
from prs_med.report.content import Card, Picture
from prs_med.report.measures import MEASURES
from prs_med.report.numbers import score
from prs_med.report.thumbnails import (
    SIDE,
    data_uri,
    image_thumbnail,
    mask_thumbnail,
    thumbnail_size,
)

Kind = Literal["best", "median", "worst", "failed", "example"]
CHOSEN: tuple[Kind, ...] = ("best", "median", "worst", "failed")
"""What `choose_cases` chooses, in this order."""


@dataclass(frozen=True)
class Case:
    """One sample to be shown."""

    title: str
    """Its row."""
    kind: Kind
    """Why it is shown."""
    modality: str
    question: str
    answer: str | None
    """The reference answer; None where the data have none."""
    predicted_answer: str
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Name of a score, as in an evaluation's rows, to its value."""
    zone_correct: bool | None = None
    """Whether the answer names the right zone; None where there is nothing to compare with."""
    error: str | None = None
    """Why the sample failed."""
    image: Image.Image | None = None
    """RGB; None where it could not be read."""
    truth: np.ndarray | None = None
    """(H, W) bool, of the image's size."""
    predicted: np.ndarray | None = None
    """(H, W) bool, of the image's size."""


def choose_cases(
    rows: Sequence[Mapping[str, Any]], per_kind: int
) -> dict[Kind, list[Mapping[str, Any]]]:
    """The rows of an evaluation that say most about it, by Dice; no row twice.

    Args:
        rows: each with ``number``, ``dice`` and ``error``.
        per_kind: at most so many of each kind.

    Returns:
        For each of `CHOSEN` its rows: best first, worst first, the others by rank and number.
        With few rows the kinds share them.

    Raises:
        ValueError: ``per_kind`` is negative.
    """
    if per_kind < 0:
        raise ValueError(f"per_kind must be 0 or more, got {per_kind}")
    failed = sorted((row for row in rows if row["error"] is not None), key=lambda r: r["number"])
    ranked = sorted(
        (row for row in rows if row["error"] is None), key=lambda r: (r["dice"], r["number"])
    )
    total = len(ranked)
    best, worst, middle = (min(per_kind, (total + more) // 3) for more in (2, 1, 0))
    between = ranked[worst : total - best]
    start = (len(between) - middle) // 2
    return {
        "best": ranked[total - best :][::-1],
        "median": between[start : start + middle],
        "worst": ranked[:worst],
        "failed": failed[:per_kind],
    }


def case_card(case: Case) -> Card:
    """A case as a report shows it.

    Raises:
        ValueError: a mask is not bool or has another size than the image.
    """
    return Card(
        title=case.title,
        badge=case.kind.capitalize(),
        kind=case.kind,
        context=case.modality,
        pictures=(image_picture(case), truth_picture(case), prediction_picture(case)),
        texts=(
            ("Question", case.question),
            ("Reference answer", "none in the data" if case.answer is None else case.answer),
            ("Model's answer", case.predicted_answer or "(empty)"),
        ),
        scores=(*shown_scores(case.scores), ("Zone", zone_verdict(case.zone_correct))),
        warning="" if case.error is None else f"Failed: {case.error}",
    )


def zone_verdict(correct: bool | None) -> str:
    """Whether an answer names the right zone, in words."""
    return {True: "right", False: "wrong", None: "nothing to compare with"}[correct]


def shown_scores(scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Names and values of scores as people read them."""
    return [_shown(key, value) for key, value in scores.items()]


def _shown(key: str, value: float | None) -> tuple[str, str]:
    measure = MEASURES.get(key)
    return (measure.name, measure.show(value)) if measure else (key, score(value))


def image_picture(case: Case) -> Picture:
    """The image alone."""
    thumbnail = None if case.image is None else image_thumbnail(case.image)
    return _picture(case, "Image", thumbnail, f"Image of {case.title}")


def truth_picture(case: Case) -> Picture:
    """The image with the true mask."""
    return _mask_picture(case, "Truth", case.truth, TRUTH_COLOUR)


def prediction_picture(case: Case, caption: str = "Prediction") -> Picture:
    """The image with the predicted mask."""
    return _mask_picture(case, caption, case.predicted, PREDICTION_COLOUR)


def _mask_picture(
    case: Case, caption: str, mask: np.ndarray | None, colour: tuple[int, int, int]
) -> Picture:
    if case.image is None or mask is None:
        return _picture(case, caption, None, f"{caption}: no mask to show")
    state = f"covers {100 * float(mask.mean()):.1f} % of the image" if mask.any() else "is empty"
    thumbnail = mask_thumbnail(case.image, mask, colour)
    return _picture(case, caption, thumbnail, f"{caption}: the mask {state}")


def _picture(case: Case, caption: str, thumbnail: Image.Image | None, description: str) -> Picture:
    size = (SIDE, SIDE) if case.image is None else thumbnail_size(case.image.size)
    source = None if thumbnail is None else data_uri(thumbnail)
    return Picture(caption, source, *size, description)
