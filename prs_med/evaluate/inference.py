"""A trained model's answers, masks and pictures of them, by any number of processes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prs_med.answering_config import InferenceSettings
from prs_med.data.answer_position import parse_position
from prs_med.data.order import Rank
from prs_med.data.position_words import PositionWords, position_words
from prs_med.evaluate.answered import Answered, answer_all
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.chunks import Chunk, Chunks
from prs_med.evaluate.open_questions import OpenedQuestions
from prs_med.evaluate.pictures import draw_overlay, draw_triplet
from prs_med.evaluate.position_scores import UNCLEAR
from prs_med.evaluate.progress_bar import progress_bar
from prs_med.evaluate.spreadsheet_text import as_plain_text
from prs_med.evaluate.unfinished import UNFINISHED, clear_up, made_by, unfinished_folder

RESULTS = "results.csv"
COLUMNS = (
    *("index", "row_id", "image_path", "mask_path", "pred_mask_path", "overlay_path"),
    *("triplet_path", "probability_path", "question", "answer", "pred_answer", "zone"),
    *("confidence", "seconds", "error"),
)
_FOLDERS = ("masks", "overlays", "triplets", "probabilities")
WRITTEN = (RESULTS, *_FOLDERS, UNFINISHED)
"""What inference writes into its folder."""
_BATCHES_IN_CHUNK = 4
_SIXTEEN_BITS = 65535


def infer(
    answerer: Answerer, opened: OpenedQuestions, settings: InferenceSettings, rank: Rank
) -> list[dict[str, Any]] | None:
    """Answer all questions, each once, whichever the number of processes, and write what came out.

    What is done is kept in ``settings.output_dir``; the first process waits for the others and
    writes ``results.csv``.

    Returns:
        The rows of ``results.csv`` in the first process, None in others.

    Raises:
        DataError: for a question that cannot be answered, under ``--strict`` or if it is the only
            one; or the data cannot be read.
    """
    output = Path(settings.output_dir)
    strict = settings.strict or bool(settings.image)
    tables = position_words(settings.position_words)
    unfinished = unfinished_folder(output, made_by("infer", answerer, opened, settings))
    chunks = Chunks(
        unfinished,
        len(opened.questions),
        _BATCHES_IN_CHUNK * settings.batch_size,
    )
    for folder in _folders(settings):
        (output / folder).mkdir(parents=True, exist_ok=True)
    with (
        progress_bar("answering", len(opened.questions), rank) as progress,
        ThreadPoolExecutor(settings.num_workers) as pool,
    ):

        def work(numbers: range) -> Chunk:
            answered = answer_all(
                answerer, opened.questions, numbers, settings.batch_size, pool, strict
            )
            rows = [pool.submit(_write, one, output, settings, tables) for one in answered]
            return {"rows": [row.result() for row in rows]}

        chunks.do(rank, work, progress)
        if rank.index:
            return None
        rows = [row for chunk in chunks.wait_for_all(progress) for row in chunk["rows"]]
    _write_csv(output / RESULTS, rows)
    clear_up(unfinished)
    return rows


def _folders(settings: InferenceSettings) -> tuple[str, ...]:
    return _FOLDERS if settings.probability_maps else _FOLDERS[:-1]


def _write(
    answered: Answered,
    output: Path,
    settings: InferenceSettings,
    tables: Sequence[PositionWords],
) -> dict[str, Any]:
    """Write the pictures of an answer; its row of results.csv."""
    question, answer, image = answered.question, answered.answer, answered.image
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "index": answered.number,
        "row_id": question.row_id,
        "image_path": question.image,
        "mask_path": question.mask,
        "question": question.text,
        "answer": question.answer or "",
        "error": answered.error or "",
    }
    if answer is None or image is None:
        return row
    name = f"{answered.number:06d}.png"
    pictures = {
        "pred_mask_path": (output / "masks" / name, _grey(answer.mask * np.uint8(255))),
        "overlay_path": (output / "overlays" / name, draw_overlay(image, answer.mask)),
        "triplet_path": (
            output / "triplets" / name,
            draw_triplet(image, answered.truth, answer.mask),
        ),
    }
    if settings.probability_maps:
        levels = np.rint(answer.probability * _SIXTEEN_BITS).astype(np.uint16)
        pictures["probability_path"] = (output / "probabilities" / name, _grey(levels))
    for path, picture in pictures.values():
        picture.save(path)
    confidence = answer.confidence
    return row | {
        **{column: str(path) for column, (path, _) in pictures.items()},
        "pred_answer": answer.text,
        "zone": parse_position(answer.text, tables).zone or UNCLEAR,
        "confidence": "" if confidence is None else f"{confidence:.4f}",
        "seconds": f"{answered.seconds:.3f}",
    }


def _grey(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    draft = path.with_suffix(".draft")
    # Names of files need not be text: what is none is written as \udcff.
    with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: as_plain_text(str(value)) for name, value in row.items()})
    draft.replace(path)
