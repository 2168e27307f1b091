"""Evaluate trained PRS-Med weights: ``python launch/eval.py --checkpoint runs/prs-med/best ...``

Questions are answered and masks drawn from images and questions alone. Prints a table and writes
metrics.json, samples.jsonl and samples.png to OUTPUT_DIR.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prs_med.quiet import quieten

quieten()

from prs_med.checkpoint.errors import BrokenCheckpointError  # noqa: E402
from prs_med.config import EvaluationSettings, SettingError  # noqa: E402
from prs_med.data.records import DataError  # noqa: E402
from prs_med.evaluate.answering import Answerer  # noqa: E402
from prs_med.evaluate.evaluation import (  # noqa: E402
    Result,
    evaluate,
    source_path,
    summarise,
    table,
)
from prs_med.evaluate.picture_sheet import write_picture_sheet  # noqa: E402
from prs_med.evaluate.questions import records_of_split  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.settings_io import parse_settings  # noqa: E402
from prs_med.storage.store import StorageError  # noqa: E402

_EXPECTED = (SettingError, DataError, CheckpointError, BrokenCheckpointError, StorageError)


def main() -> int:
    """Evaluate and return the exit status: 0 done, 2 a mistake in settings, data or weights."""
    try:
        run(parse_settings(EvaluationSettings, sys.argv[1:], __doc__ or ""))
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(settings: EvaluationSettings) -> None:
    """Answer every question of the split, score the answers and write the results."""
    settings.require("checkpoint", "data_root")
    answerer = Answerer.load(settings)
    records = records_of_split(settings, answerer.settings)
    _write(settings, evaluate(answerer, records, settings.batch_size))


def _write(settings: EvaluationSettings, results: list[Result]) -> None:
    output = Path(settings.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    summary = summarise(results)
    (output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with (output / "samples.jsonl").open("w", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps(_as_json(result, Path(settings.data_root))) + "\n")
    if settings.pictures:
        # Evenly spread over the split, so that every modality is seen.
        shown = min(settings.pictures, len(results))
        spread = [results[number * len(results) // shown] for number in range(shown)]
        write_picture_sheet(output / "samples.png", spread)
    print(table(summary))
    print(f"details: {output}")


def _as_json(result: Result, data_root: Path) -> dict[str, object]:
    return {
        "row_id": result.record.row_id,
        "image": source_path(result.record.image_path, data_root),
        "question": result.record.question,
        "answer": result.record.answer,
        "predicted_answer": result.answer,
        "zone": result.true_zone,
        "predicted_zone": result.answered_zone,
        "dice": result.dice,
        "iou": result.iou,
    }


if __name__ == "__main__":
    sys.exit(main())
