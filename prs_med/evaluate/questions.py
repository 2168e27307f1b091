"""Which rows of a data set are asked."""

from __future__ import annotations

import logging
from pathlib import Path

from prs_med.config import EvaluationSettings, InferenceSettings, Settings
from prs_med.data.records import DataError, Record
from prs_med.data.rows import annotation_paths, tasks_in
from prs_med.data.sources import read_annotations
from prs_med.data.split import split_records


def records_of_split(
    settings: EvaluationSettings | InferenceSettings, trained_with: Settings
) -> list[Record]:
    """The rows of the split; images that training held out are held out again in the same way.

    Raises:
        DataError: for a row that cannot be used, or if there is none.
    """
    # Read and split exactly as in training, so that the same images are held out; then choose.
    annotations = read_annotations(
        Path(settings.data_root or ""),
        annotation_paths(settings.ann_paths),
        "error",
        trained_with.group_column if settings.split != "test" else None,
        tasks_in(trained_with.tasks) if settings.split != "test" else None,
    )
    if annotations.repaired_rows:
        logging.getLogger("prs_med").info(
            "repaired unquoted commas in %d rows, the first: %s",
            len(annotations.repaired_rows),
            annotations.repaired_rows[0],
        )
    splits = split_records(annotations.records, trained_with.val_fraction, trained_with.seed)
    if settings.split != "test" and splits.held_out and trained_with.data:
        raise DataError(
            f"--split {settings.split}: no row is labelled val, and which images training held out "
            f"was decided when the dataset {trained_with.data} was built; label the rows"
        )
    records = {"train": splits.train, "val": splits.val, "test": splits.test}[settings.split]
    wanted = tasks_in(settings.tasks)
    records = [record for record in records if wanted is None or record.task in wanted]
    if not records:
        of_tasks = f" and of --tasks {settings.tasks}" if wanted is not None else ""
        raise DataError(
            f"--split {settings.split}: no row of {settings.data_root} is labelled so{of_tasks}"
        )
    return records
