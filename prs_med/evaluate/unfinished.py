"""Where what is done so far is kept until all of it is done, and whose the results are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prs_med.answering_config import AskedSettings
from prs_med.data.position_words import position_words
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.open_questions import OpenedQuestions, identity_of

UNFINISHED = ".unfinished-*"
"""The folders of work that is not done."""
_WITHOUT_EFFECT = {
    *("output_dir", "overwrite", "num_workers", "pictures", "judges", "judge_batch_size"),
}
"""Settings that change no answer and no score."""


def made_by(
    command: str, answerer: Answerer, opened: OpenedQuestions, settings: AskedSettings
) -> dict[str, Any]:
    """What tells the results from those of other models, questions and settings; see
    :mod:`prs_med.storage.results_folder`."""
    chosen = {n: value for n, value in asdict(settings).items() if n not in _WITHOUT_EFFECT}
    # A table of words may have been edited since.
    chosen["position_words"] = [
        (table.name, str(table.phrases), table.unsure_endings)
        for table in position_words(settings.position_words)
    ]
    weights = answerer.fingerprint()
    return {
        "command": command,
        "checkpoint": settings.checkpoint,
        "weights": weights[:12],
        "data": opened.source,
        "split": settings.split,
        "identity": identity_of([chosen, opened.identity, weights])[:12],
    }


def unfinished_folder(output: Path, made_by: Mapping[str, Any]) -> Path:
    """A folder in ``output`` for this model, these questions and these settings alone, so that
    nothing of another run is taken for its own."""
    return output / UNFINISHED.replace("*", made_by["identity"])


def clear_up(folder: Path) -> None:
    """Remove what is kept, when the results are complete."""
    shutil.rmtree(folder, ignore_errors=True)
