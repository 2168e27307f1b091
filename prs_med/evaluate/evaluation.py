"""A trained model's answers and masks on a split, scored by any number of processes."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prs_med import __version__
from prs_med.answering_config import EvaluationSettings
from prs_med.config import names_in
from prs_med.data.order import Rank
from prs_med.data.position_words import PositionWords, position_words
from prs_med.evaluate.answered import Answered, answer_all
from prs_med.evaluate.answering import THRESHOLD, Answerer
from prs_med.evaluate.chunks import Chunk, Chunks, NoLongerNeededError
from prs_med.evaluate.judge import Judgement
from prs_med.evaluate.judged import add_columns, add_judgements, is_judged, judge_answers
from prs_med.evaluate.open_questions import OpenedQuestions, identity_of
from prs_med.evaluate.progress_bar import progress_bar
from prs_med.evaluate.scored import Scored, score
from prs_med.evaluate.summary import VERSION, Totals, summarise
from prs_med.evaluate.unfinished import UNFINISHED, made_by, unfinished_folder

MASKS = "masks"
RESULTS = ("metrics.json", "per_sample.parquet", "report.html", "report.md", MASKS, UNFINISHED)
"""What an evaluation writes into its folder."""
_BATCHES_IN_CHUNK = 4


@dataclass(frozen=True)
class Evaluation:
    """What came out."""

    metrics: dict[str, Any]
    """The content of metrics.json."""
    rows: list[dict[str, Any]]
    """One for each question, in their order: the content of per_sample.parquet."""
    unfinished: Path
    """What was kept until all was done, to be removed once the results are written."""


def evaluate(
    answerer: Answerer, opened: OpenedQuestions, settings: EvaluationSettings, rank: Rank
) -> Evaluation | None:
    """Answer and score all questions, each once, whichever the number of processes.

    Chunks of the questions are kept as they are done, in ``settings.output_dir``, so that an
    interrupted evaluation goes on. The first process waits for the others and puts everything
    together, the masks in ``masks/``.

    Returns:
        The results in the first process, None in others.

    Raises:
        DataError: under ``--strict`` for a question that cannot be answered; or the data cannot be
            read.
        CheckpointError: a judge cannot be loaded.
    """
    about = _about(answerer, opened, settings)
    tables = position_words(settings.position_words)
    output = Path(settings.output_dir)
    folder = unfinished_folder(output, made_by("eval", answerer, opened, settings))
    total = len(opened.questions)
    chunks = Chunks(folder / "chunks", total, _BATCHES_IN_CHUNK * settings.batch_size)
    with (
        progress_bar("evaluating", total, rank) as progress,
        ThreadPoolExecutor(settings.num_workers) as pool,
    ):

        def work(numbers: range) -> Chunk:
            return _chunk(answerer, opened, numbers, settings, tables, pool, folder / MASKS)

        chunks.do(rank, work, progress)
        if rank.index and not settings.judges:
            return None
        try:
            rows, totals = _merged(chunks.wait_for_all(progress))
        except NoLongerNeededError:
            return None
    if settings.judges:
        answerer.release()
    judged = [
        _judge(number, judge, settings, rows, folder / f"judge-{identity_of([judge])[:12]}", rank)
        for number, judge in enumerate(names_in(settings.judges or ""), 1)
    ]
    if rank.index:
        return None
    scores = summarise(rows, totals)
    for judgements in judged:
        add_judgements(scores, rows, judgements)
    _put_in_place(folder / MASKS, output / MASKS)
    speed = _speed(rows, answerer, rank)
    metrics = {"version": VERSION, "evaluation": about, "speed": speed, **scores}
    return Evaluation(metrics, rows, folder)


def mask_name(number: int) -> str:
    """The file of the mask that answers a question."""
    return f"{number:06d}.png"


def _about(
    answerer: Answerer, opened: OpenedQuestions, settings: EvaluationSettings
) -> dict[str, Any]:
    """What the results depend on."""
    names = ("split", "tasks", "batch_size", "max_new_tokens", "temperature", "top_p", "seed")
    return {
        "checkpoint": settings.checkpoint,
        "weights": answerer.fingerprint()[:12],
        "data": opened.source,
        "data_kind": "dataset" if settings.data else "CSV files",
        **{name: getattr(settings, name) for name in names},
        "load_4bit": answerer.settings.load_4bit,
        "threshold": THRESHOLD,
        "post_processing": answerer.post_processing.text,
        "position_words": settings.position_words,
        "prs_med": __version__,
    }


def _chunk(
    answerer: Answerer,
    opened: OpenedQuestions,
    numbers: range,
    settings: EvaluationSettings,
    tables: Sequence[PositionWords],
    pool: ThreadPoolExecutor,
    masks: Path,
) -> Chunk:
    masks.mkdir(exist_ok=True)
    scoring = [
        pool.submit(_score_and_keep, answered, tables, masks)
        for answered in answer_all(
            answerer, opened.questions, numbers, settings.batch_size, pool, settings.strict
        )
    ]
    of_modality: dict[str, list[Scored]] = defaultdict(list)
    rows = []
    for scored in (future.result() for future in scoring):
        rows.append(scored.row)
        of_modality[scored.row["modality"]].append(scored)
    totals = {name: Totals.of(scored).as_json() for name, scored in of_modality.items()}
    return {"rows": rows, "totals": totals}


def _score_and_keep(answered: Answered, tables: Sequence[PositionWords], masks: Path) -> Scored:
    if answered.answer is not None:
        mask = Image.fromarray(answered.answer.mask.astype(np.uint8) * 255)
        mask.save(masks / mask_name(answered.number))
    return score(answered, tables)


def _merged(chunks: Iterator[Chunk]) -> tuple[list[dict[str, Any]], dict[str, Totals]]:
    rows: list[dict[str, Any]] = []
    totals: dict[str, Totals] = {}
    for chunk in chunks:
        rows += chunk["rows"]
        for name, loaded in chunk["totals"].items():
            part = Totals.from_json(loaded)
            totals[name] = totals[name] + part if name in totals else part
    return rows, totals


def _speed(rows: list[dict[str, Any]], answerer: Answerer, rank: Rank) -> dict[str, Any]:
    """How fast the model answered, reading and scoring aside; all processes together."""
    seconds = [row["seconds"] for row in rows if row["seconds"]]
    device = answerer.device
    return {
        "questions_per_second": rank.world * len(seconds) / sum(seconds) if seconds else None,
        "processes": rank.world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _judge(
    number: int,
    judge: str,
    settings: EvaluationSettings,
    rows: list[dict[str, Any]],
    folder: Path,
    rank: Rank,
) -> list[Judgement]:
    """Ask a judge about the answers that have a reference; adds its verdicts to the rows."""
    asked = [row for row in rows if is_judged(row)]
    with progress_bar(f"judging by {judge}", len(asked), rank) as progress:
        judgements = judge_answers(judge, settings.judge_batch_size, asked, folder, rank, progress)
    add_columns(number, judgements, rows)
    return judgements


def _put_in_place(draft: Path, folder: Path) -> None:
    # Where it is not there, this was done before, and clearing up was interrupted.
    if draft.exists():
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
