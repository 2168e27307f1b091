"""Finished evaluations of the same questions, compared, with pictures of what changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prs_med.answering_config import ComparisonSettings
from prs_med.config import SettingError
from prs_med.evaluate.evaluated_images import EvaluatedImages
from prs_med.evaluate.open_questions import identity_of
from prs_med.evaluate.report_of_evaluation import case_of
from prs_med.evaluate.results_files import read_results
from prs_med.report.changed_samples import ChangedSample
from prs_med.report.comparison import Run, compare_runs
from prs_med.report.comparison_report import RESULTS, write_comparison_report
from prs_med.storage.results_folder import claim_folder


@dataclass(frozen=True)
class _Finished:
    """An evaluation as it lies on disk."""

    folder: Path
    run: Run
    rows: dict[str, dict[str, Any]]
    """By ``row_id``."""


def compare_evaluations(folders: Sequence[str], settings: ComparisonSettings) -> dict[str, Any]:
    """Compare evaluations with the first of them, and write the page.

    Args:
        folders: two or more output folders of evaluations.
        settings: where the page goes, and what it shows.

    Returns:
        What :func:`prs_med.report.comparison.compare_runs` returns.

    Raises:
        SettingError: a folder holds no evaluation, they are not of the same questions, or the
            folder for the page holds what another command made or cannot be written.
        DataError: a mask that a picture needs cannot be read.
    """
    finished = [_read(folder) for folder in folders]
    try:
        comparison = compare_runs([one.run for one in finished], settings.pictures)
    except ValueError as error:
        raise SettingError(f"compare: {error}") from None
    images = EvaluatedImages(finished[0].run.metrics, settings.data, settings.data_root)
    changed = [
        _changed(other, change, finished, images)
        for other in comparison["others"]
        for direction in ("better", "worse")
        for change in comparison["changed"][other][direction]
    ]
    output = Path(settings.output_dir)
    claim_folder("output_dir", output, _made_by(finished), RESULTS, overwrite=settings.overwrite)
    write_comparison_report(output, comparison, changed)
    return comparison


def _made_by(finished: Sequence[_Finished]) -> dict[str, Any]:
    """What tells this comparison from others; see :mod:`prs_med.storage.results_folder`."""
    evaluations = {one.run.name: one.run.metrics["evaluation"] for one in finished}
    return {
        "command": "compare",
        "evaluations": " and ".join(
            f"{name} (checkpoint {about['checkpoint']})" for name, about in evaluations.items()
        ),
        "identity": identity_of([*evaluations.items()])[:12],
    }


def _read(name: str) -> _Finished:
    metrics, rows = read_results(Path(name))
    return _Finished(Path(name), Run(name, metrics, rows), {row["row_id"]: row for row in rows})


def _changed(
    other: str, change: dict[str, Any], finished: Sequence[_Finished], images: EvaluatedImages
) -> ChangedSample:
    row_id = change["row_id"]
    pixels = images.pixels(finished[0].rows[row_id])
    cases = [
        replace(case_of(one.rows[row_id], "example", pixels, one.folder), title=one.run.name)
        for one in finished
        if one.run.name in (finished[0].run.name, other)
    ]
    return ChangedSample(row_id, other, change["change"], cases)
