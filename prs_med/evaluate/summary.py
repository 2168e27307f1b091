"""What metrics.json says: scores of all questions, and of those of each modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prs_med.evaluate.calibration import CalibrationTotals
from prs_med.evaluate.position_scores import ConfusionMatrix
from prs_med.evaluate.published_protocol import ProtocolTotals
from prs_med.evaluate.scored import SEVERAL, Scored
from prs_med.evaluate.statistics import RESAMPLES, summarise_values
from prs_med.evaluate.text_metrics import bleu_signature, corpus_bleu

VERSION = 2
_MASKS = ("dice", "iou", "precision", "recall", "hd95", "surface_distance")
_POSITIONS = {
    "zone_accuracy": "zone_correct",
    "near_center_accuracy": "near_center_correct",
    "answer_agrees_with_mask": "answer_agrees_with_mask",
    "mask_zone_accuracy": "mask_zone_correct",
    "unclear_answers": "answer_unclear",
}
"""Name to the column of the rows."""
_TEXTS = ("rouge1", "rouge2", "rouge_l", "meteor_exact_stem")

Row = Mapping[str, Any]
"""Of per_sample.parquet."""


@dataclass(frozen=True)
class Totals:
    """What of some questions can be added up, and is not in their rows."""

    protocol: ProtocolTotals
    calibration: CalibrationTotals
    confusion: ConfusionMatrix

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> Totals:
        """Totals of some questions, possibly of none."""
        return cls(
            ProtocolTotals.of([one.protocol for one in scored]),
            sum((one.calibration for one in scored), CalibrationTotals.none()),
            ConfusionMatrix.of([one.confusion for one in scored if one.confusion]),
        )

    def __add__(self, other: Totals) -> Totals:
        """Totals of both parts."""
        return Totals(
            self.protocol + other.protocol,
            self.calibration + other.calibration,
            self.confusion + other.confusion,
        )

    def as_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return {
            "protocol": self.protocol.as_array().tolist(),
            "calibration": [array.tolist() for array in vars(self.calibration).values()],
            "confusion": self.confusion.counts.tolist(),
        }

    @classmethod
    def from_json(cls, loaded: Mapping[str, Any]) -> Totals:
        """What `as_json` made."""
        pixels, confidence, foreground = loaded["calibration"]
        return cls(
            ProtocolTotals.from_array(np.array(loaded["protocol"], dtype=np.float64)),
            CalibrationTotals(
                np.array(pixels, dtype=np.int64),
                np.array(confidence, dtype=np.float64),
                np.array(foreground, dtype=np.int64),
            ),
            ConfusionMatrix(np.array(loaded["confusion"], dtype=np.int64)),
        )


def summarise(rows: Sequence[Row], totals: Mapping[str, Totals]) -> dict[str, Any]:
    """The part of metrics.json with scores.

    Args:
        rows: of all questions, one or more.
        totals: of the questions of each modality.
    """
    modalities = {}
    for name in sorted(totals):
        modalities[name] = _group([row for row in rows if row["modality"] == name], totals[name])
    everything = sum((totals[name] for name in sorted(totals)), Totals.of([]))
    return {
        "failures": [
            {"row_id": row["row_id"], "error": row["error"]} for row in rows if row["error"]
        ],
        "disagreements": [
            {"row_id": row["row_id"], "true_zone": row["true_zone"], "answer": row["answer"]}
            for row in rows
            if row["reference_disagrees"]
        ],
        "all": _group(rows, everything),
        "modalities": modalities,
    }


def counted(rows: Sequence[Row], in_it: Callable[[Row], bool]) -> dict[str, int]:
    """Of how many questions a figure is the mean, and what became of the others.

    Args:
        rows: of the questions that were asked.
        in_it: whether a question is in the figure's denominator.

    Returns:
        ``n`` questions in the denominator, ``failures`` among them, ``left_out`` questions that are
        not in it, ``failures_left_out`` among these: ``n + left_out`` are all questions, and
        ``failures + failures_left_out`` all failures.
    """
    counts = Counter((in_it(row), row["error"] is not None) for row in rows)
    return {
        "n": counts[True, False] + counts[True, True],
        "failures": counts[True, True],
        "left_out": counts[False, False] + counts[False, True],
        "failures_left_out": counts[False, True],
    }


def summarise_column(
    rows: Sequence[Row], column: str, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Mean, spread and interval of one of the scores, with what `counted` says."""
    values, groups = [row[column] for row in rows], [row["group"] for row in rows]
    return {
        **asdict(summarise_values(values, groups, resamples)),
        **counted(rows, lambda row: row[column] is not None),
    }


def _group(rows: Sequence[Row], totals: Totals) -> dict[str, Any]:
    answered = [row for row in rows if row["answer"]]
    return {
        "samples": len(rows),
        "failures": sum(row["error"] is not None for row in rows),
        "groups": len({row["group"] for row in rows}),
        "segmentation": {name: summarise_column(rows, name) for name in _MASKS},
        "published_protocol": {**totals.protocol.scores(), **counted(rows, lambda row: True)},
        "position": {
            **{name: summarise_column(rows, column) for name, column in _POSITIONS.items()},
            "other_language": sum(row["answer_unclear"] is None for row in rows),
            "reference_disagrees": sum(bool(row["reference_disagrees"]) for row in rows),
            "confusion": {
                "rows": list(totals.confusion.rows),
                "columns": list(totals.confusion.columns),
                "counts": totals.confusion.counts.tolist(),
                **counted(rows, has_one_true_zone),
            },
        },
        "text": {
            "bleu": corpus_bleu(
                [row["predicted_answer"] for row in answered], [row["answer"] for row in answered]
            ),
            "bleu_counts": counted(rows, lambda row: bool(row["answer"])),
            "bleu_signature": bleu_signature(),
            **{name: summarise_column(rows, name) for name in _TEXTS},
        },
        "calibration": {
            "ece": totals.calibration.expected_calibration_error,
            "curve": [asdict(point) for point in totals.calibration.reliability_curve()],
            **counted(rows, lambda row: row["error"] is None),
        },
        "judges": [],
    }


def has_one_true_zone(row: Row) -> bool:
    """Whether a question is in the confusion of zones."""
    return row["true_zone"] is not None and SEVERAL not in row["true_zone"]
