"""Where what is done so far is kept until all of it is done."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from prs_med.answering_config import AskedSettings
from prs_med.data.position_words import position_words
from prs_med.evaluate.answering import Answerer
from prs_med.evaluate.open_questions import OpenedQuestions, identity_of

_PREFIX = ".unfinished-"
_WITHOUT_EFFECT = {"output_dir", "num_workers", "pictures", "judges", "judge_batch_size"}
"""Settings that change no answer and no score."""


def unfinished_folder(
    output: Path, answerer: Answerer, opened: OpenedQuestions, settings: AskedSettings
) -> Path:
    """A folder in ``output`` for this model, these questions and these settings alone, so that
    nothing of another run is taken for its own."""
    chosen = {n: value for n, value in asdict(settings).items() if n not in _WITHOUT_EFFECT}
    # A table of words may have been edited since.
    chosen["position_words"] = [
        (table.name, str(table.phrases), table.unsure_endings)
        for table in position_words(settings.position_words)
    ]
    return (
        output / f"{_PREFIX}{identity_of([chosen, opened.identity, answerer.fingerprint()])[:12]}"
    )


def clear_up(output: Path) -> None:
    """Remove what is kept, when the results are complete."""
    for folder in output.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
