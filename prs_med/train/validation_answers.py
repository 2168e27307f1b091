"""Answers in words to some validation questions, scored as an evaluation scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from prs_med.config import Settings
from prs_med.data.answer_position import parse_position
from prs_med.data.order import Rank, evaluation_batches, evenly_spread
from prs_med.data.position_words import PositionWords, position_words
from prs_med.data.samples import Preparation, Sample
from prs_med.data.training_data import TrainingData
from prs_med.evaluate.generate import Predictions, Sampling, predict
from prs_med.evaluate.position_scores import position_scores
from prs_med.evaluate.text_metrics import text_scores
from prs_med.train.engines import Engines
from prs_med.train.means import Means

ANSWERS = "val_answers"
SCORES = (
    *("val_zone_accuracy", "val_near_center_accuracy", "val_answer_agrees_with_mask"),
    "val_rouge_l",
)


@dataclass(frozen=True)
class Answered:
    """A validation question with what the model says."""

    place: int
    """Its number among the questions that are asked."""
    sample: Sample
    answer: str
    mask: np.ndarray
    """(S, S) bool, predicted together with the answer."""
    scores: dict[str, float | None]
    """By their names in the metrics; None where there is nothing to compare with."""


class ValidationAnswers:
    """Asks the same questions at every validation, whatever the number of processes."""

    def __init__(
        self,
        settings: Settings,
        rank: Rank,
        data: TrainingData,
        preparation: Preparation,
        tokenizer: PreTrainedTokenizerBase,
        any_open: Callable[[bool], bool],
    ) -> None:
        """``data`` has validation samples, and ``validation_answers`` is not 0; ``any_open`` tells
        before each token whether an answer of any process has not ended."""
        self._numbers = evenly_spread(settings.validation_answers, data.validation_samples)
        self._shown = evenly_spread(settings.validation_pictures, len(self._numbers))
        # No larger than needed, so that every process has some of them.
        each = -(-len(self._numbers) // rank.world)
        self._order = evaluation_batches(len(self._numbers), min(settings.batch_size, each), rank)
        self._settings = settings
        self._tables = position_words(settings.position_words)
        self._data = data
        self._preparation = preparation
        self._tokenizer = tokenizer
        self._any_open = any_open

    @torch.no_grad()
    def score(self, engines: Engines) -> tuple[dict[str, float], list[Answered]]:
        """Means over all questions, equal on all ranks, and those of this rank's questions that are
        to be shown in pictures.

        Answers are generated from image and question alone, always the likeliest token.
        ``val_answers`` is how many questions were asked; each mean is over those of them that have
        something to compare with, and left out if none has.

        Every rank must call it: all pass through the model equally often.
        """
        engines.train(False)
        means = Means((ANSWERS, *SCORES))
        shown = []
        for answered in self._ask(engines):
            means.add({ANSWERS: 1, **answered.scores})
            if answered.place in self._shown:
                shown.append(answered)
        engines.train(True)
        values, counts = means.read(engines.device)
        return {**values, ANSWERS: counts[ANSWERS]}, shown

    def _ask(self, engines: Engines) -> Iterator[Answered]:
        # The last question also fills up the last batch.
        numbers = [self._numbers[-1 if at is None else at] for part in self._order for at in part]
        with closing(self._data.read_validation(self._preparation, numbers)) as samples:
            for places in self._order:
                batch = list(islice(samples, len(places)))
                predictions = self._predict(engines, batch)
                masks = (predictions.mask_logits[:, 0] > 0).cpu().numpy()
                found = zip(batch, predictions.answers, masks, strict=True)
                for place, one in zip(places, found, strict=True):
                    if place is not None:
                        yield self._answered(place, *one)

    def _answered(
        self, place: int, sample: Sample, ids: tuple[int, ...], mask: np.ndarray
    ) -> Answered:
        answer = self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        return Answered(
            place, sample, answer, mask, _scores_of_answer(sample, answer, mask, self._tables)
        )

    def _predict(self, engines: Engines, samples: Sequence[Sample]) -> Predictions:
        device = engines.device
        with self._uncompiled():
            return predict(
                engines.language_model,
                engines.segmentation,
                [sample.text.ids[: sample.text.prompt_length] for sample in samples],
                torch.stack([sample.image_vlm for sample in samples]).to(device),
                torch.stack([sample.image_seg for sample in samples]).to(device),
                pad_token=self._tokenizer.pad_token_id or 0,
                end_token=self._tokenizer.eos_token_id,
                sampling=Sampling(self._settings.validation_answer_tokens),
                any_open=self._any_open,
            )

    def _uncompiled(self) -> AbstractContextManager[None]:
        # Layers with a cache that grows would be compiled anew again and again.
        if self._settings.compile_model:
            stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
            return stance
        return nullcontext()


def _scores_of_answer(
    sample: Sample, answer: str, mask: np.ndarray, tables: Sequence[PositionWords]
) -> dict[str, float | None]:
    """The scores of one generated answer by their names in the metrics.

    Args:
        sample: what was asked, with its reference answer and true mask.
        answer: the generated answer.
        mask: (S, S) bool, the predicted mask.
        tables: words of the languages that are read.
    """
    truth = sample.mask[0].numpy() > 0
    if parse_position(sample.answer, tables).zone:
        # The mask is stretched or padded to the encoder's input, where its place is another one;
        # what the reference answer says is said of the image.
        truth = np.zeros_like(truth)
    places = position_scores(answer, sample.answer, truth, mask, sample.question, tables)
    values = (
        *(places.zone_correct, places.near_center_correct, places.answer_agrees_with_mask),
        text_scores(answer, sample.answer).rouge_l,
    )
    return dict(zip(SCORES, values, strict=True))
