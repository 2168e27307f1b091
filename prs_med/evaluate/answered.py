"""Some questions, read and answered batch by batch, those that cannot be among them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prs_med.data.records import DataError
from prs_med.evaluate.answering import Answer, Answerer
from prs_med.evaluate.questions import Question, Questions


@dataclass(frozen=True)
class Answered:
    """One question, and what became of it."""

    number: int
    question: Question
    image: Image.Image | None
    """RGB; None where it, or its true mask, cannot be used."""
    truth: np.ndarray | None
    """(H, W) bool; None where there is none, or it cannot be used. Known where it can, also if the
    image cannot."""
    answer: Answer | None
    """None where there is none; then there is an error."""
    error: str | None
    seconds: float | None
    """Time that the model took for it, as a share of its batch's."""


def answer_all(
    answerer: Answerer,
    questions: Questions,
    numbers: Sequence[int],
    batch_size: int,
    pool: ThreadPoolExecutor,
    strict: bool,
) -> Iterator[Answered]:
    """Answer the questions with these numbers, in this order.

    The images of the next batch are read meanwhile in the threads of ``pool``; more of them would
    take memory without need.

    Raises:
        DataError: under ``strict``, for the first that cannot be used; and where the data itself
            cannot be read.
    """
    waiting: list[Future[_Read]] = []
    for start in range(0, len(numbers), batch_size):
        batch = numbers[start : start + batch_size]
        reading = [pool.submit(_read, questions, number) for number in batch]
        if waiting:
            yield from _answer_batch(answerer, waiting, strict)
        waiting = reading
    if waiting:
        yield from _answer_batch(answerer, waiting, strict)


@dataclass(frozen=True)
class _Read:
    number: int
    question: Question
    pixels: tuple[Image.Image, np.ndarray | None] | None
    truth: np.ndarray | None
    error: str | None


def _read(questions: Questions, number: int) -> _Read:
    question = questions.question(number)
    try:
        pixels = questions.pixels(number)
    except DataError as error:
        truth = None
        # What is wrong with the mask, if anything is, stands in the first error.
        with suppress(DataError):
            truth = questions.truth(number)
        return _Read(number, question, None, truth, str(error))
    return _Read(number, question, pixels, pixels[1], None)


def _answer_batch(
    answerer: Answerer, reading: Sequence[Future[_Read]], strict: bool
) -> Iterator[Answered]:
    read = [future.result() for future in reading]
    usable = [item for item in read if item.pixels is not None]
    started = time.perf_counter()
    answers: list[Answer] = []
    if usable:
        answers = answerer.answer(
            [item.pixels[0] for item in usable if item.pixels],
            [item.question.text for item in usable],
        )
    seconds = (time.perf_counter() - started) / max(1, len(usable))
    of_number = {item.number: answer for item, answer in zip(usable, answers, strict=True)}
    for item in read:
        answered = _checked(item, of_number.get(item.number), seconds)
        if strict and answered.error:
            raise DataError(answered.error)
        yield answered


def _checked(item: _Read, answer: Answer | None, seconds: float) -> Answered:
    error = item.error
    if answer is not None and not np.isfinite(answer.probability).all():
        answer, error = None, f"{item.question.row_id}: the model's mask is not finite"
    elif answer is not None and answer.probability.size < 2:
        answer, error = None, f"{item.question.row_id}: the image is a single pixel, without places"
    return Answered(
        number=item.number,
        question=item.question,
        image=item.pixels[0] if item.pixels else None,
        truth=item.truth,
        answer=answer,
        error=error,
        seconds=seconds if answer else None,
    )
