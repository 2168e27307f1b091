"""The report of an evaluation, with pictures of some cases."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prs_med.data.images import load_mask
from prs_med.data.records import DataError
from prs_med.evaluate.evaluation import MASKS, Evaluation, mask_name
from prs_med.evaluate.questions import Questions
from prs_med.report.cases import Case, Kind, choose_cases
from prs_med.report.evaluation_report import write_evaluation_report

Pixels = tuple[Image.Image | None, np.ndarray | None]
"""An image, RGB, and its true mask, (H, W) bool, as far as they are there."""

SHOWN_SCORES = ("dice", "iou", "hd95", "confidence")


def write_report(output: Path, result: Evaluation, questions: Questions, pictures: int) -> None:
    """Write report.html and report.md into the folder that holds the masks.

    Args:
        output: the folder of the evaluation.
        result: what came out.
        questions: those that were asked; their images are read again.
        pictures: how many of the best, the median, the worst and the failed cases are shown.
    """
    chosen = choose_cases(result.rows, pictures)
    cases = [
        case_of(row, kind, _pixels(questions, row), output)
        for kind, rows in chosen.items()
        for row in rows
    ]
    write_evaluation_report(output, result.metrics, result.rows, cases)


def case_of(row: Mapping[str, Any], kind: Kind, pixels: Pixels, output: Path) -> Case:
    """A row with its pictures.

    Args:
        row: of per_sample.parquet.
        kind: why it is shown.
        pixels: the image and the true mask.
        output: the folder of the evaluation, which has the predicted mask.

    Raises:
        DataError: the predicted mask cannot be read, or is of another size than the image.
    """
    image, truth = pixels
    mask_file = output / MASKS / mask_name(row["number"])
    predicted = _mask(mask_file) if row["error"] is None else None
    if image and predicted is not None and predicted.shape != (image.height, image.width):
        height, width = predicted.shape
        raise DataError(
            f"{mask_file}: is {width} x {height} pixels and the image {row['image']} "
            f"{image.width} x {image.height}: it is not the image that was evaluated"
        )
    return Case(
        title=row["row_id"],
        kind=kind,
        modality=row["modality"],
        question=row["question"],
        answer=row["answer"],
        predicted_answer=row["predicted_answer"],
        scores={name: row[name] for name in SHOWN_SCORES},
        zone_correct=row["zone_correct"],
        error=row["error"],
        image=image,
        truth=truth,
        predicted=predicted,
    )


def _pixels(questions: Questions, row: Mapping[str, Any]) -> Pixels:
    # What cannot be read is among the failures.
    with suppress(DataError):
        return questions.pixels(row["number"])
    return None, None


def _mask(file: Path) -> np.ndarray:
    try:
        return load_mask(file).astype(bool)
    except DataError as error:
        raise DataError(
            f"{error}; pictures need the masks of the evaluation, --pictures 0 does without"
        ) from None
