"""What is done at each validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.data.collate import Collator
from prs_med.data.order import Rank
from prs_med.data.samples import Preparation
from prs_med.data.training_data import TrainingData
from prs_med.train import distributed
from prs_med.train.engines import Engines

PICTURES = "validation"
"""Folder of a run with the pictures of its newest validation."""
EXAMPLES = "examples.json"
"""What they show, in that folder."""


class ValidationStopped(Exception):
    """The run was asked to end; the message says by what."""


class Validation:
    """Scores the weights as they are now; every process makes the same calls."""

    def __init__(
        self,
        settings: Settings,
        rank: Rank,
        engines: Engines,
        data: TrainingData,
        preparation: Preparation,
        collator: Collator,
        tokenizer: PreTrainedTokenizerBase,
        beat: Callable[[], None],
        asked: Callable[[], str],
    ) -> None:
        """
        Args:
            beat: called again and again, as a sign that validation goes on.
            asked: what asks the run to end, as far as this process knows; empty for nothing.
        """
        self._settings = settings
        self._rank = rank
        self._engines = engines
        self._data = data
        self._preparation = preparation
        self._collator = collator
        self._tokenizer = tokenizer
        self._agreement = distributed.agreement()
        self._beat = beat
        self._asked = asked

    def scores(self, step: int) -> dict[str, float]:
        """Scores by their names in the metrics, equal on all ranks; none without validation
        samples. Writes the pictures of this step.

        Raises:
            ValidationStopped: on every process at the same point, if any was asked to end.
        """
        if not self._data.validation_samples:
            return {}
        with self._engines.averaged():
            return {**self._scores_of_all(), **self._scores_of_answers(step)}

    def _scores_of_all(self) -> dict[str, float]:
        # Only now: MONAI takes two seconds to import, and --help and refusals must not wait for it.
        from prs_med.train.validate import validate

        batches = self._data.validation_batches(
            self._preparation,
            self._collator,
            micro_batch=self._settings.batch_size,
            rank=self._rank,
        )
        return validate(self._engines, self._watched(batches), self._settings)

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._any(False)
            yield batch

    def _any(self, answer: bool) -> bool:
        """Whether any process answers yes. A look at who asks for the end comes with it."""
        self._beat()
        asked = self._asked()
        yes, stop = self._agreement.any(answer, bool(asked))
        if stop:
            raise ValidationStopped(distributed.first_of(asked))
        return yes

    def _scores_of_answers(self, step: int) -> dict[str, float]:
        settings = self._settings
        if not settings.validation_answers:
            return {}
        # As above.
        from prs_med.train.validation_answers import ValidationAnswers
        from prs_med.train.validation_pictures import write_pictures

        answers = ValidationAnswers(
            *(settings, self._rank, self._data, self._preparation),
            *(self._tokenizer, self._any),
        )
        scores, shown = answers.score(self._engines)
        if settings.validation_pictures:
            folder = Path(settings.save_dir) / PICTURES
            modalities = self._preparation.modalities
            write_pictures(folder, shown, modalities, step, self._agreement)
        return scores
