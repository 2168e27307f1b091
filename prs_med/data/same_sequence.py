"""Whether a run that goes on would see the same sequence of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prs_med.data.records import DataError

_CAUSES = {
    "dataset": "dataset (--data)",
    "rows": "set of rows to train on (--data_root, --ann_paths, --tasks, --val_fraction, "
    "--test_fraction, --fold)",
    "unit": "way to form batches (--batch_by_image)",
    "seed": "--seed",
    "global_batch": "global batch (--global_batch_size, or --batch_size x "
    "--gradient_accumulation_steps x processes)",
    "shuffle_window": "--shuffle_window",
}


def check_same_sequence(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Compare what determines the sequence of samples here with that of the run to go on with.

    Raises:
        DataError: they differ; the message names the setting and both values.
    """
    for name, cause in _CAUSES.items():
        if ours.get(name) != theirs.get(name):
            raise DataError(
                f"the run to go on with has another {cause}: {theirs.get(name)} there, "
                f"{ours.get(name)} here; so its sequence of samples would be another"
            )
