"""PRS-Med: train and evaluate position reasoning segmentation at scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prs_med.evaluate.answering import Answerer

__version__ = "0.1.0"


def load(checkpoint: str, **settings: Any) -> Answerer:
    """A trained model, ready to be asked.

    ::

        model = prs_med.load("runs/prs-med/best")
        answer = model.ask("scan.png", "Where is the tumor?")
        answer.text, answer.mask, answer.probability

    Args:
        checkpoint: a folder with trained weights, a merged model, a training checkpoint or a run,
            also on S3, as ``launch/infer.py --checkpoint`` takes it.
        settings: those of the model, by the names that ``launch/infer.py --help`` shows, such as
            ``load_4bit=True`` or ``largest_component=True``.

    Raises:
        SettingError: a setting is wrong.
        CheckpointError, BrokenCheckpointError, StorageError: the weights cannot be read.
    """
    # Most programs of the package do without the model, whose libraries are slow to import.
    from prs_med.answering_config import UsedModelSettings
    from prs_med.evaluate.answering import Answerer
    from prs_med.quiet import quieten

    quieten()
    return Answerer.load(UsedModelSettings(checkpoint=checkpoint, **settings))
