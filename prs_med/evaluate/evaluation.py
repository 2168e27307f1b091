"""A trained model's answers and masks on a split, scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from prs_med.data.answer_position import parse_position
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.position import position_of
from prs_med.data.records import DataError, Record
from prs_med.evaluate.answering import Answer, Answerer


@dataclass(frozen=True)
class Result:
    """One question, answered and scored."""

    record: Record
    answer: str
    mask: np.ndarray
    """(H, W) bool in the source image's size."""
    dice: float
    iou: float
    true_zone: str | None
    """The zone that the reference answer names, or else the mask's; None if there is neither."""
    answered_zone: str | None
    """The zone that the generated answer names."""

    @property
    def zone_correct(self) -> bool | None:
        """None where there is no true zone to compare with."""
        return None if self.true_zone is None else self.answered_zone == self.true_zone


def evaluate(answerer: Answerer, records: Sequence[Record], batch_size: int) -> list[Result]:
    """Results of all records, in their order.

    Raises:
        DataError: naming the row whose image or mask cannot be used.
    """
    results: list[Result] = []
    with tqdm(total=len(records), desc="evaluating", unit="question") as bar:
        for start in range(0, len(records), batch_size):
            batch = records[start : start + batch_size]
            pairs = [read_pair(record) for record in batch]
            answers = answerer.answer(
                [image for image, _ in pairs], [record.question for record in batch]
            )
            results += [
                _score(record, truth, answer)
                for record, (_, truth), answer in zip(batch, pairs, answers, strict=True)
            ]
            bar.update(len(batch))
    return results


def read_pair(record: Record) -> tuple[Image.Image, np.ndarray]:
    """The image, and its mask as (H, W) bool.

    Raises:
        DataError: naming the row, if one of them cannot be used.
    """
    try:
        image, mask = load_image(record.image_path), load_mask(record.mask_path)
    except DataError as error:
        raise DataError(f"{record.row_id}: {error}") from None
    check_same_size(image, mask, record.row_id)
    return image, mask.astype(bool)


def _score(record: Record, truth: np.ndarray, answer: Answer) -> Result:
    predicted = answer.mask
    both = int((predicted & truth).sum())
    sizes = int(predicted.sum()) + int(truth.sum())
    return Result(
        record=record,
        answer=answer.text,
        mask=predicted,
        dice=2 * both / sizes if sizes else 1.0,
        iou=both / (sizes - both) if sizes else 1.0,
        true_zone=_true_zone(record, truth),
        answered_zone=parse_position(answer.text).zone,
    )


def _true_zone(record: Record, truth: np.ndarray) -> str | None:
    zone = parse_position(record.answer).zone
    if zone is None and truth.any():
        zone = position_of(truth).zone
    return zone


def summarise(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Counts and means over all samples (``"all"``) and over each modality."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.record.modality or "(not named)"].append(result)
    summary = {name: _means(group) for name, group in sorted(groups.items())}
    return {**summary, "all": _means(results)}


def _means(results: Sequence[Result]) -> dict[str, Any]:
    zones = [result.zone_correct for result in results if result.zone_correct is not None]
    return {
        "samples": len(results),
        "dice": float(np.mean([result.dice for result in results])),
        "iou": float(np.mean([result.iou for result in results])),
        "zone_accuracy": float(np.mean(zones)) if zones else None,
    }


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The summary as text, one line per modality."""
    width = max(len("modality"), *map(len, summary))
    lines = [f"{'modality':<{width}}  samples    Dice     IoU  zone accuracy"]
    for name, row in summary.items():
        zone = "n/a" if row["zone_accuracy"] is None else f"{row['zone_accuracy']:.3f}"
        lines.append(
            f"{name:<{width}}  {row['samples']:>7}  {row['dice']:>6.3f}  {row['iou']:>6.3f}"
            f"  {zone:>13}"
        )
    return "\n".join(lines)


def source_path(path: Path, data_root: Path) -> str:
    """A path as the data set names it, for reports that must not show where it lies."""
    root = data_root.resolve()
    return str(path.resolve().relative_to(root))
