"""``report.html`` of a run, written again and again while it goes on."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prs_med.data.images import decode_image, decode_mask
from prs_med.report.cases import Case
from prs_med.report.training_report import write_training_report
from prs_med.train.metrics_log import whole_lines
from prs_med.train.status import STATUS
from prs_med.train.validation import EXAMPLES, PICTURES

_SECONDS = 20
"""At least so long between two versions: drawing takes a core for a moment."""

_logger = logging.getLogger("prs_med")


class RunReport:
    """Draws the report from the run's files, in a thread of its own: training does not wait."""

    def __init__(self, folder: Path, metrics: Path, settings: dict[str, Any]) -> None:
        """
        Args:
            folder: the run's folder.
            metrics: its log of metrics.
            settings: the settings by their names.
        """
        self._folder = folder
        self._metrics = metrics
        self._settings = settings
        self._drawing: threading.Thread | None = None
        self._drawn_at = -float(_SECONDS)

    def update(self) -> None:
        """Draw it again, unless it was drawn just now or is being drawn."""
        busy = self._drawing is not None and self._drawing.is_alive()
        if busy or time.monotonic() - self._drawn_at < _SECONDS:
            return
        self._drawing = threading.Thread(target=self._draw, name="run report", daemon=True)
        self._drawing.start()

    def finish(self) -> None:
        """Draw it with all that there is now."""
        if self._drawing is not None:
            self._drawing.join()
        self._draw()

    def _draw(self) -> None:
        try:
            write_training_report(
                self._folder,
                _json_lines(self._metrics),
                self._settings,
                _json(self._folder / STATUS),
                _cases(self._folder / PICTURES),
            )
        except (OSError, ValueError) as error:
            # A full disk, say. Training is worth more than its picture.
            _logger.warning("report.html is not written: %s", error)
        self._drawn_at = time.monotonic()


def _json_lines(file: Path) -> list[dict[str, Any]]:
    """The lines that are whole: the last one may be half written, and any be damaged."""
    if not file.exists():
        return []
    lines = whole_lines(file.read_bytes())
    return [json.loads(line) for line in lines]


def _json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def _cases(folder: Path) -> Sequence[Case]:
    """What validation wrote; none if it replaces them at this moment."""
    try:
        examples = json.loads((folder / EXAMPLES).read_text(encoding="utf-8"))
        return [_case(folder, example) for example in examples]
    except FileNotFoundError:
        return []


def _case(folder: Path, example: dict[str, Any]) -> Case:
    image, truth, predicted = (folder / example[name] for name in ("image", "truth", "predicted"))
    return Case(
        title=example["row_id"],
        kind="example",
        modality=example["modality"] or "",
        question=example["question"],
        answer=example["answer"],
        predicted_answer=example["predicted_answer"],
        scores={"dice": example["dice"]},
        zone_correct=example["zone_correct"],
        image=decode_image(image.read_bytes(), str(image)),
        truth=decode_mask(truth.read_bytes(), str(truth)).astype(bool),
        predicted=decode_mask(predicted.read_bytes(), str(predicted)).astype(bool),
    )
