"""Some questions of the newest validation as pictures, in a folder of the run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prs_med.batch import UNKNOWN_MODALITY
from prs_med.evaluate.mask_metrics import mask_scores
from prs_med.storage import strict_json
from prs_med.storage.replaced_folder import replace_folder
from prs_med.train.agreement import Agreement
from prs_med.train.validation import EXAMPLES
from prs_med.train.validation_answers import Answered

_logger = logging.getLogger("prs_med")


@dataclass(frozen=True)
class Example:
    """A question as it is shown."""

    place: int
    """Its number among the questions that were asked."""
    about: dict[str, Any]
    """JSON values."""
    pictures: dict[str, bytes]
    """PNG files by their names in ``about``: ``image`` (RGB), ``truth`` and ``predicted`` (0 where
    nothing is, 255 in the mask), all (S, S)."""


def write_pictures(
    folder: Path,
    shown: Sequence[Answered],
    modalities: Sequence[str],
    step: int,
    agreement: Agreement,
) -> None:
    """Replace ``folder`` on rank 0 by the examples of this validation; every rank must call it.

    A failure to write is logged: training does not end for a picture.

    Args:
        folder: of the run.
        shown: those questions to show that this rank asked.
        modalities: the model's vocabulary.
        step: at which the answers were given.
        agreement: by which the pictures come to rank 0.
    """
    # Each rank compresses its own; rank 0 alone writes, and the others do not wait for it.
    own = [_example(answered, modalities, step) for answered in shown]
    gathered = agreement.gathered(own)
    examples = sorted((one for of_rank in gathered for one in of_rank), key=lambda one: one.place)
    if not examples:
        return
    try:
        _write(folder, examples)
    except OSError as error:
        _logger.warning("the pictures of this validation were not written: %s", error)


def _write(folder: Path, examples: Sequence[Example]) -> None:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    rows = []
    for number, example in enumerate(examples):
        names = {
            "image": f"{number:03}.png",
            "truth": f"{number:03}-truth.png",
            "predicted": f"{number:03}-predicted.png",
        }
        for kind, name in names.items():
            (draft / name).write_bytes(example.pictures[kind])
        rows.append({**example.about, **names})
    text = strict_json.dumps(rows, indent=2, ensure_ascii=False)
    (draft / EXAMPLES).write_text(text + "\n", encoding="utf-8")
    replace_folder(draft, folder)


def _example(answered: Answered, modalities: Sequence[str], step: int) -> Example:
    sample = answered.sample
    truth = sample.mask[0].numpy() > 0
    known = sample.modality != UNKNOWN_MODALITY
    return Example(
        answered.place,
        {
            "row_id": sample.row_id,
            "modality": modalities[sample.modality] if known else None,
            "question": sample.question,
            "answer": sample.answer,
            "predicted_answer": answered.answer,
            "dice": mask_scores(answered.mask, truth).dice,
            "zone_correct": answered.scores["val_zone_accuracy"],
            "step": step,
        },
        {
            "image": _png(sample.image_seg.permute(1, 2, 0).numpy()),
            "truth": _png(truth * np.uint8(255)),
            "predicted": _png(answered.mask * np.uint8(255)),
        },
    )


def _png(pixels: np.ndarray) -> bytes:
    """(S, S, 3) or (S, S) uint8 as a file."""
    file = BytesIO()
    # Others wait meanwhile: quick rather than small.
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
