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

import torch  # noqa: E402

from prs_med.config import EvaluationSettings, SettingError, Settings  # noqa: E402
from prs_med.data.loading import annotation_paths  # noqa: E402
from prs_med.data.records import DataError, Record  # noqa: E402
from prs_med.data.sources import read_annotations  # noqa: E402
from prs_med.data.split import split_records  # noqa: E402
from prs_med.evaluate.evaluation import (  # noqa: E402
    Evaluator,
    Result,
    source_path,
    summarise,
    table,
)
from prs_med.evaluate.picture_sheet import write_picture_sheet  # noqa: E402
from prs_med.inputs import image_sizes, prompt_encoder  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.model.mllm import load_tokenizer  # noqa: E402
from prs_med.model.trained_weights import load_trained  # noqa: E402
from prs_med.settings_io import parse_settings  # noqa: E402


def main() -> int:
    """Evaluate and return the exit status: 0 done, 2 a mistake in settings, data or weights."""
    try:
        evaluate(parse_settings(EvaluationSettings, sys.argv[1:], __doc__ or ""))
    except (SettingError, DataError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(settings: EvaluationSettings) -> None:
    """Answer every question of the split, score the answers and write the results."""
    settings.require("checkpoint", "data_root")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_trained(Path(settings.checkpoint), settings.vlm_path)
    records = _records(settings, model.settings)
    model.mllm.to(device)
    model.segmentation.to(device)
    tokenizer = load_tokenizer(model.layout)
    evaluator = Evaluator(
        model,
        tokenizer,
        prompt_encoder(tokenizer, model.layout, model.settings),
        image_sizes(model.layout, model.settings.image_size),
        settings.max_new_tokens,
        device,
    )
    results = evaluator.evaluate(records, settings.batch_size)
    _write(settings, results)


def _records(settings: EvaluationSettings, trained_with: Settings) -> list[Record]:
    annotations = read_annotations(
        Path(settings.data_root), annotation_paths(settings.ann_paths), "error"
    )
    # Held-out images are held out again as in training, by the same seed and share.
    splits = split_records(annotations.records, trained_with.val_fraction, trained_with.seed)
    records = {"train": splits.train, "val": splits.val, "test": splits.test}[settings.split]
    if not records:
        raise DataError(f"--split {settings.split}: no row of {settings.data_root} is labelled so")
    return records


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
