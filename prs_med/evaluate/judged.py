"""Judges' verdicts on the answers of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from prs_med.data.order import Rank
from prs_med.evaluate.chunks import Chunk, Chunks
from prs_med.evaluate.judge import PROMPTS, Judge, JudgedCase, Judgement
from prs_med.evaluate.summary import Row, counted

_CHUNK = 128


def judge_answers(
    judge: str,
    batch_size: int,
    rows: Sequence[Row],
    folder: Path,
    rank: Rank,
    progress: Callable[[int], None],
) -> list[Judgement]:
    """What a judge says to each prompt about the rows' answers; in the first process the verdicts
    of all processes together, in others none.

    Args:
        judge: a chat model, a folder or hub id.
        batch_size: answers judged at once.
        rows: those to be judged.
        folder: where verdicts are kept, for these answers and this judge alone.
        rank: the process. The first one waits for the others.
        progress: told how many answers are done.

    Raises:
        CheckpointError: the judge cannot be loaded.
    """
    chunks = Chunks(folder, len(rows), _CHUNK)
    loaded: list[Judge] = []

    def work(numbers: range) -> Chunk:
        # Not before it is needed: a process may have no chunk left to judge.
        if not loaded:
            loaded.append(Judge(judge, batch_size=batch_size))
        cases = [_case(rows[number]) for number in numbers]
        return {prompt.name: loaded[0].judge(prompt, cases).replies for prompt in PROMPTS}

    chunks.do(rank, work, progress)
    if rank.index:
        return []
    parts = list(chunks.wait_for_all(progress))
    return [
        Judgement.of(judge, prompt.name, [reply for part in parts for reply in part[prompt.name]])
        for prompt in PROMPTS
    ]


def is_judged(row: Row) -> bool:
    """Whether a judge is asked about a row: it has an answer, and one to compare it with."""
    return bool(row["answer"]) and row["error"] is None


def _has_reference(row: Row) -> bool:
    """Also one that cannot be read: the text of its answer is lost, its scores are 0."""
    return row["rouge1"] is not None or bool(row["answer"])


def add_columns(
    number: int, judgements: Sequence[Judgement], rows: Sequence[dict[str, Any]]
) -> None:
    """Add a judge's verdicts to all rows, as columns of per_sample.parquet.

    Args:
        number: of the judge, from 1.
        judgements: one for each prompt.
        rows: all of them; of those that were not judged, failures with a reference answer are wrong
            and others have no verdict.
    """
    for judgement in judgements:
        verdicts = iter(judgement.verdicts)
        for row in rows:
            verdict = False if _has_reference(row) else None
            if is_judged(row):
                verdict = next(verdicts)
            row[f"judge{number}_{judgement.prompt}"] = verdict


def add_judgements(
    scores: dict[str, Any], rows: Sequence[Row], judgements: Sequence[Judgement]
) -> None:
    """Add a judge's verdicts to the part of metrics.json with scores."""
    for name, group in scores["modalities"].items():
        group["judges"] += _summary(judgements, rows, {name})
    scores["all"]["judges"] += _summary(judgements, rows, {*scores["modalities"]})


def _summary(
    judgements: Sequence[Judgement], rows: Sequence[Row], modalities: Set[str]
) -> list[dict[str, Any]]:
    """What was said to each prompt about the rows of some modalities. Failures count as not yes,
    unasked."""
    judged = [row["modality"] in modalities for row in rows if is_judged(row)]
    counts = counted([row for row in rows if row["modality"] in modalities], _has_reference)
    return [
        {
            "judge": part.judge,
            "prompt": part.prompt,
            "accuracy": part.yes / counts["n"] if counts["n"] else None,
            "yes": part.yes,
            "no": part.no,
            "unparsed": part.unparsed,
            **counts,
        }
        for part in (judgement.only(judged) for judgement in judgements)
    ]


def _case(row: Row) -> JudgedCase:
    return JudgedCase(row["question"], row["answer"], row["predicted_answer"])
