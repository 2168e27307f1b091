"""Ask a trained model: ``python launch/infer.py --checkpoint runs/prs-med/best ...``

About one image (--image, --question) or about the rows of a data set (--data_root). Writes to
OUTPUT_DIR masks in the images' own size (masks/), image, true and predicted mask side by side
(triplets/), and results.csv; what an interrupted run had answered is in results.partial.csv.
"""

from __future__ import annotations

import csv
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prs_med.quiet import quieten

quieten()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from tqdm import tqdm  # noqa: E402

from prs_med.checkpoint.errors import BrokenCheckpointError  # noqa: E402
from prs_med.config import InferenceSettings, SettingError  # noqa: E402
from prs_med.data.answer_position import parse_position  # noqa: E402
from prs_med.data.images import load_image  # noqa: E402
from prs_med.data.records import DataError, Record  # noqa: E402
from prs_med.evaluate.answering import Answer, Answerer  # noqa: E402
from prs_med.evaluate.evaluation import read_pair  # noqa: E402
from prs_med.evaluate.picture_sheet import draw_triplet  # noqa: E402
from prs_med.evaluate.questions import records_of_split  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.settings_io import parse_settings  # noqa: E402
from prs_med.storage.store import StorageError  # noqa: E402

_EXPECTED = (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError)

COLUMNS = (
    *("index", "image_path", "mask_path", "pred_mask_path", "triplet_path", "question", "answer"),
    *("pred_answer", "zone", "confidence", "seconds"),
)


@dataclass(frozen=True)
class Question:
    """One image and what is asked about it; the truth where it is known."""

    index: int
    text: str
    record: Record | None
    image_path: Path

    def read(self) -> tuple[Image.Image, np.ndarray | None]:
        """The image, and the true mask (H, W) bool."""
        if self.record is None:
            return load_image(self.image_path), None
        return read_pair(self.record)


def main() -> int:
    """Answer and return the exit status: 0 done, 2 a mistake in settings, data or weights."""
    try:
        run(parse_settings(InferenceSettings, sys.argv[1:], __doc__ or ""))
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(settings: InferenceSettings) -> None:
    """Answer every question and write what was answered, row by row."""
    settings.require("checkpoint")
    output = Path(settings.output_dir)
    if (output / "results.csv").exists():
        raise SettingError(f"--output_dir {output} already holds results: give another folder")
    answerer = Answerer.load(settings)
    questions = _questions(settings, answerer)
    for name in ("masks", "triplets"):
        (output / name).mkdir(parents=True, exist_ok=True)
    partial = output / "results.partial.csv"
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in _answered(settings, answerer, questions, output):
            writer.writerow(row)
            file.flush()
    partial.rename(output / "results.csv")
    print(f"{len(questions)} answers: {output}")


def _questions(settings: InferenceSettings, answerer: Answerer) -> list[Question]:
    if settings.image:
        return [Question(0, settings.question or "", None, Path(settings.image))]
    records = records_of_split(settings, answerer.settings)
    chosen = list(enumerate(records))
    if settings.num_samples:
        chosen = random.Random(settings.seed).sample(chosen, min(settings.num_samples, len(chosen)))
        chosen.sort(key=lambda pair: pair[0])
    return [Question(index, r.question, r, r.image_path) for index, r in chosen]


def _answered(
    settings: InferenceSettings, answerer: Answerer, questions: list[Question], output: Path
) -> Iterator[dict[str, object]]:
    with tqdm(total=len(questions), desc="answering", unit="question") as bar:
        for start in range(0, len(questions), settings.batch_size):
            batch = questions[start : start + settings.batch_size]
            pairs = [question.read() for question in batch]
            started = time.perf_counter()
            answers = answerer.answer(
                [image for image, _ in pairs], [question.text for question in batch]
            )
            seconds = (time.perf_counter() - started) / len(batch)
            for question, (image, truth), answer in zip(batch, pairs, answers, strict=True):
                yield _written(question, image, truth, answer, output) | {
                    "seconds": f"{seconds:.3f}"
                }
            bar.update(len(batch))
            if settings.image:
                print(answers[0].text)


def _written(
    question: Question,
    image: Image.Image,
    truth: np.ndarray | None,
    answer: Answer,
    output: Path,
) -> dict[str, object]:
    name = f"{question.index:05d}.png"
    mask = answer.mask
    Image.fromarray(mask.astype(np.uint8) * 255).save(output / "masks" / name)
    draw_triplet(image, truth, mask).save(output / "triplets" / name)
    inside = answer.probability[mask]
    return {
        "index": question.index,
        "image_path": question.image_path,
        "mask_path": question.record.mask_path if question.record else "",
        "pred_mask_path": output / "masks" / name,
        "triplet_path": output / "triplets" / name,
        "question": question.text,
        "answer": question.record.answer if question.record else "",
        "pred_answer": answer.text,
        "zone": parse_position(answer.text).zone or "",
        # How sure the model is of what it drew; empty where it drew nothing.
        "confidence": f"{inside.mean():.4f}" if inside.size else "",
    }


if __name__ == "__main__":
    sys.exit(main())
