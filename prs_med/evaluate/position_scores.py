"""Whether an answer names the right place, and whether the mask lies where the answer says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prs_med.data.answer_position import (
    ENGLISH,
    ParsedPosition,
    parse_position,
    parse_positions,
)
from prs_med.data.components import pieces
from prs_med.data.language import is_in_other_language
from prs_med.data.position import ZONES, Position, position_of
from prs_med.data.position_words import PositionWords

UNCLEAR = "unclear"
"""The zone of answers that name none, more than one for the same finding, or one in words that are
not understood."""
_FINDINGS = 64
"""Most pieces of a mask whose zones are compared with a reference answer's."""


@dataclass(frozen=True)
class PositionScores:
    """What is right about the places in one answer. None: there is nothing to compare with."""

    true_zones: tuple[str, ...]
    """Zone of the true mask; of several findings, those that the reference answer names, in order;
    without a mask that of the reference answer. Empty where there is none of them, or where
    answers are in a language that is not read."""
    answered_zones: tuple[str | None, ...]
    """Zones of the findings that the generated answer names, in order; None for a finding without a
    clear one. An answer that names no zone at all has none."""
    mask_zone: str | None
    """Zone of the predicted mask; None where it is empty."""
    zone_correct: bool | None
    """Whether the answer names the true zone and no other; of several findings, all of them in the
    same order."""
    near_center_correct: bool | None
    """Whether the answer is right about the nearness to the centre, said or implied; an answer that
    says nothing of it is wrong. Judged where there is one finding."""
    answer_agrees_with_mask: bool | None
    """Whether the zone of the answer is that of the predicted mask. Judged where the answer names
    one zone and the predicted mask is not empty, whatever the truth."""
    unclear: bool | None = None
    """Whether the answer is unclear about the place: it names no zone, or two for one finding.
    None where it is in a language that is not read."""
    reference_disagrees: bool | None = None
    """Whether the reference answer says another place than the true mask has, in which case the
    mask counts. None where one of them says nothing."""

    @property
    def pair(self) -> tuple[str, str | None] | None:
        """True and answered zone, for :class:`ConfusionMatrix`; None without one single true
        zone."""
        if len(self.true_zones) != 1:
            return None
        answered = self.answered_zones[0] if len(self.answered_zones) == 1 else None
        return self.true_zones[0], answered


def position_scores(
    answer: str,
    reference: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    question: str = "",
    tables: Sequence[PositionWords] = ENGLISH,
) -> PositionScores:
    """Score the places that an answer names.

    Where question and reference answer are in a language that none of the tables has, nothing is
    right or wrong. What the answer itself is written in does not matter: one in another language
    than it was asked in is unclear.

    Args:
        answer: the generated answer.
        reference: the reference answer.
        truth: (H, W) bool, the true mask.
        predicted: (H, W) bool, the predicted mask.
        question: what was asked.
        tables: words of the languages that are read.

    Raises:
        ValueError: a mask is not two-dimensional.
    """
    true_position = position_of(truth) if truth.any() else None
    mask_zone = position_of(predicted).zone if predicted.any() else None
    if is_in_other_language(reference or question, tables):
        return PositionScores((), (), mask_zone, None, None, None)
    said = parse_position(answer, tables)
    referred = parse_position(reference, tables)
    several = _several_zones(reference, tables)
    true_zones = several or _one_zone(referred, true_position)
    answered_zones: tuple[str | None, ...]
    if len(true_zones) > 1:
        answered_zones = tuple(finding.zone for finding in parse_positions(answer, tables))
        zone_correct: bool | None = answered_zones == true_zones
    else:
        # Of one structure, an answer that names two zones is unclear, not about two findings.
        answered_zones = (said.zone,) if said.zone else ()
        zone_correct = said.zone == true_zones[0] if true_zones else None
    true_nearness = None
    if len(true_zones) == 1:
        true_nearness = true_position.near_center if true_position else referred.near_center
    return PositionScores(
        true_zones=true_zones,
        answered_zones=answered_zones,
        mask_zone=mask_zone,
        zone_correct=zone_correct,
        near_center_correct=None if true_nearness is None else said.near_center == true_nearness,
        answer_agrees_with_mask=_agreement(said, mask_zone),
        unclear=not answered_zones or None in answered_zones,
        reference_disagrees=_disagrees(several, referred, true_position, truth),
    )


def _several_zones(reference: str, tables: Sequence[PositionWords]) -> tuple[str, ...]:
    """The zones of all findings that a reference answer names, if there are several and all are
    clear."""
    findings = [finding.zone for finding in parse_positions(reference, tables)]
    zones = tuple(zone for zone in findings if zone is not None)
    return zones if len(zones) > 1 and len(zones) == len(findings) else ()


def _one_zone(referred: ParsedPosition, of_mask: Position | None) -> tuple[str, ...]:
    zone = of_mask.zone if of_mask else referred.zone
    return (zone,) if zone else ()


def _disagrees(
    several: Sequence[str], referred: ParsedPosition, of_mask: Position | None, truth: np.ndarray
) -> bool | None:
    if of_mask is None:
        return None
    if several:
        of_pieces = {position_of(piece).zone for piece in pieces(truth, 0.0, _FINDINGS).masks}
        return not set(several) <= of_pieces
    if referred == ParsedPosition(None, None):
        return None
    said_and_true = (
        (referred.zone, of_mask.zone),
        (referred.near_center, of_mask.near_center),
    )
    return any(said not in (None, true) for said, true in said_and_true)


def _agreement(said: ParsedPosition, mask_zone: str | None) -> bool | None:
    return None if said.zone is None or mask_zone is None else said.zone == mask_zone


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often which zone was answered where which is true; of processes, to be added up."""

    counts: np.ndarray
    """(5, 6) int64: a row for each true zone and a column for each answered one, in the order of
    `prs_med.data.position.ZONES`; the last column is `UNCLEAR`."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str | None]]) -> ConfusionMatrix:
        """Count pairs of true and answered zone, as `PositionScores.pair` gives them.

        Raises:
            ValueError: a zone is none of `ZONES`.
        """
        counts = np.zeros((len(ZONES), len(ZONES) + 1), dtype=np.int64)
        for true, answered in pairs:
            if true not in ZONES or answered not in (*ZONES, None):
                raise ValueError(f"unknown zone in {true!r} answered by {answered!r}")
            column = len(ZONES) if answered is None else ZONES.index(answered)
            counts[ZONES.index(true), column] += 1
        return cls(counts)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Counts of both parts."""
        return ConfusionMatrix(self.counts + other.counts)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, the true zones."""
        return ZONES

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, the answered zones and `UNCLEAR`."""
        return (*ZONES, UNCLEAR)
