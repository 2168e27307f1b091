"""One question, answered and scored: a row of the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from prs_med.data.answer_position import ENGLISH
from prs_med.data.position_words import PositionWords
from prs_med.evaluate.answered import Answered
from prs_med.evaluate.calibration import CalibrationTotals
from prs_med.evaluate.mask_metrics import MaskScores, mask_scores
from prs_med.evaluate.position_scores import UNCLEAR, PositionScores, position_scores
from prs_med.evaluate.published_protocol import (
    CURVES,
    LEVELS,
    ProtocolScores,
    protocol_scores,
)
from prs_med.evaluate.questions import Question
from prs_med.evaluate.text_metrics import TextScores, text_scores

NOT_NAMED = "(not named)"
"""The modality of images whose modality nothing tells."""
SEVERAL = ", "
"""Between the zones of several findings."""

_FAILED_MASK = MaskScores(0.0, 0.0, 0.0, 0.0, None, None)
_FAILED_PROTOCOL = ProtocolScores(np.zeros((len(CURVES), LEVELS)), np.array([0.0, 0.0, 1.0]))


@dataclass(frozen=True)
class Scored:
    """The scores of one question."""

    row: dict[str, Any]
    """JSON values by the names of the columns in per_sample.parquet."""
    protocol: ProtocolScores
    calibration: CalibrationTotals
    confusion: tuple[str, str | None] | None
    """True and answered zone, where there is one true zone."""


def score(answered: Answered, tables: Sequence[PositionWords] = ENGLISH) -> Scored:
    """Score one question; ``tables`` are the languages in which answers are read.

    One that could not be answered, or whose truth cannot be used, has the worst of each score that
    is a share and that it would have had, and no distances: it stays in the denominators.

    Raises:
        ValueError: it has an answer but no true mask.
    """
    question, answer, truth = answered.question, answered.answer, answered.truth
    if answer is None:
        positions = _failed_positions(question, truth, tables)
        masks, protocol = _FAILED_MASK, _FAILED_PROTOCOL
        calibration = CalibrationTotals.none()
    elif truth is None:
        raise ValueError(f"{question.row_id}: has no true mask to compare with")
    else:
        positions = position_scores(
            answer.text, question.answer or "", truth, answer.mask, question.text, tables
        )
        masks = mask_scores(answer.mask, truth)
        protocol = protocol_scores(answer.probability, truth)
        calibration = CalibrationTotals.of(answer.probability, truth)
    text = answer.text if answer else ""
    texts = asdict(text_scores(text, question.answer)) if question.answer else _no_texts(question)
    row = {
        "number": answered.number,
        "row_id": question.row_id,
        "image": question.image,
        "mask": question.mask,
        "modality": question.modality or NOT_NAMED,
        "group": question.group,
        "question": question.text,
        "answer": question.answer,
        "predicted_answer": text,
        "error": answered.error,
        **asdict(masks),
        **_positions(positions),
        **texts,
        "confidence": answer.confidence if answer else None,
        "true_area": None if truth is None else int(truth.sum()),
        "predicted_area": int(answer.mask.sum()) if answer else None,
        **protocol.as_dict(),
        "seconds": answered.seconds,
    }
    return Scored(row, protocol, calibration, positions.pair)


def _no_texts(question: Question) -> dict[str, float | None]:
    """Scores without a reference answer: none, unless there is one that cannot be read."""
    value = 0.0 if question.answer_lost else None
    return dict.fromkeys((spec.name for spec in fields(TextScores)), value)


def _failed_positions(
    question: Question, truth: np.ndarray | None, tables: Sequence[PositionWords]
) -> PositionScores:
    """Wrong in all that an answer would have been judged by. Where nobody can tell whether it would
    have been, since the mask that would tell cannot be read, it is taken to have been; and so is
    its agreement with a mask, of which only the answer tells. In a language that is not read no
    answer would have been judged."""
    nothing = np.zeros((1, 1), dtype=bool)
    known = nothing if truth is None else truth
    scores = position_scores("", question.answer or "", known, nothing, question.text, tables)
    if scores.unclear is None:
        return scores
    scores = replace(scores, answer_agrees_with_mask=False)
    if truth is not None or len(scores.true_zones) > 1:
        return scores
    return replace(scores, zone_correct=False, near_center_correct=False)


def _positions(scores: PositionScores) -> dict[str, Any]:
    mask_right = None
    # A failure whose true zone cannot be told is wrong all the same.
    if scores.zone_correct is not None and len(scores.true_zones) <= 1:
        mask_right = (scores.mask_zone,) == scores.true_zones
    return {
        "true_zone": SEVERAL.join(scores.true_zones) or None,
        "answered_zone": _answered_zone(scores),
        "mask_zone": scores.mask_zone,
        "zone_correct": scores.zone_correct,
        "near_center_correct": scores.near_center_correct,
        "answer_agrees_with_mask": scores.answer_agrees_with_mask,
        "mask_zone_correct": mask_right,
        "answer_unclear": scores.unclear,
        "reference_disagrees": scores.reference_disagrees,
    }


def _answered_zone(scores: PositionScores) -> str | None:
    """None where answers are in a language that is not read."""
    if scores.unclear is None:
        return None
    return SEVERAL.join(zone or UNCLEAR for zone in scores.answered_zones) or UNCLEAR
