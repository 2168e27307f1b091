"""Judges' verdicts on the answers of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prs_med.data.order import Rank
from prs_med.evaluate.chunks import Chunk, Chunks
from prs_med.evaluate.judge import PROMPTS, Judge, JudgedCase, Judgement

_CHUNK = 128


def judge_answers(
    judge: str,
    batch_size: int,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    rank: Rank,
    progress: Callable[[int], None],
) -> list[Judgement]:
    """What a judge says to each prompt about the rows' answers; in the first process the verdicts
    of all processes together, in others none.

    Args:
        judge: a chat model, a folder or hub id.
        batch_size: answers judged at once.
        rows: those with a reference answer.
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


def add_columns(
    number: int, judgements: Sequence[Judgement], rows: Sequence[dict[str, Any]]
) -> None:
    """Add a judge's verdicts to all rows, as columns of per_sample.parquet.

    Args:
        number: of the judge, from 1.
        judgements: one for each prompt.
        rows: all of them, also those without a reference answer, which were not judged.
    """
    for judgement in judgements:
        verdicts = iter(judgement.verdicts)
        for row in rows:
            row[f"judge{number}_{judgement.prompt}"] = next(verdicts) if row["answer"] else None


def add_judgements(
    scores: dict[str, Any], rows: Sequence[Mapping[str, Any]], judgements: Sequence[Judgement]
) -> None:
    """Add a judge's verdicts to the part of metrics.json with scores."""
    asked = [row["modality"] for row in rows if row["answer"]]
    for name, group in scores["modalities"].items():
        group["judges"] += _summary(judgements, [modality == name for modality in asked])
    scores["all"]["judges"] += _summary(judgements, [True] * len(asked))


def _summary(judgements: Sequence[Judgement], chosen: Sequence[bool]) -> list[dict[str, Any]]:
    return [
        {
            "judge": part.judge,
            "prompt": part.prompt,
            "accuracy": part.accuracy,
            "yes": part.yes,
            "no": part.no,
            "unparsed": part.unparsed,
        }
        for part in (judgement.only(chosen) for judgement in judgements)
    ]


def _case(row: Mapping[str, Any]) -> JudgedCase:
    return JudgedCase(row["question"], row["answer"], row["predicted_answer"])
