"""Evaluate trained PRS-Med weights, or compare evaluations.

python launch/eval.py --checkpoint runs/prs-med/best --data_root data/posmed
    Answers every question of a split from image and question alone, and scores answers and masks.
    Several GPUs: deepspeed launch/eval.py, torchrun --nproc_per_node 8 launch/eval.py, or srun. An
    interrupted evaluation goes on when the same command is given again.

python launch/eval.py compare runs/a/evaluation runs/b/evaluation
    Differences between evaluations of the same questions, each with the first; see
    'compare --help'.

An evaluation writes report.html (and report.md), metrics.json, per_sample.parquet and masks/ to
OUTPUT_DIR. A question that cannot be answered is listed and counts as wrong; --strict stops at it.
What another command made in OUTPUT_DIR is not replaced without --overwrite.
Exit status: 0 done, 2 a mistake in settings, data or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prs_med.answering_config import ComparisonSettings, EvaluationSettings
from prs_med.config import SettingError
from prs_med.programs.program import program
from prs_med.settings_io import parse_settings
from prs_med.storage.results_folder import check_folder, check_unclaimed, claim_folder

_PROGRAM = "python launch/eval.py"
_COMPARISON = """Compare evaluations with the first of them.

Example: python launch/eval.py compare runs/a/evaluation runs/b/evaluation

A, B and more are output folders of evaluations of the same questions, matched by their rows.
Writes comparison.html, comparison.md and comparison.json: differences for each modality with 95 %
bootstrap intervals, and pictures of the cases that changed most.
"""


@program
def main(argv: Sequence[str]) -> int:
    """Run a command and return the exit status: 0 done, 2 a mistake in settings, data or
    weights."""
    if argv[:1] == ["compare"]:
        compare(argv[1:])
    else:
        settings = parse_settings(EvaluationSettings, argv, __doc__ or "", _PROGRAM)
        settings.require()
        evaluate_split(settings)
    return 0


def evaluate_split(settings: EvaluationSettings) -> None:
    """Answer every question of the split, score the answers and write the results."""
    output = check_folder("output_dir", settings.output_dir)
    # Slow to import, and a mistake in the settings should show at once.
    from prs_med.data.position_words import position_words

    position_words(settings.position_words)
    from prs_med.evaluate.answering import Answerer
    from prs_med.evaluate.evaluation import RESULTS, evaluate
    from prs_med.evaluate.open_questions import open_split
    from prs_med.evaluate.processes import this_process
    from prs_med.evaluate.report_of_evaluation import write_report
    from prs_med.evaluate.results_files import write_results
    from prs_med.evaluate.table import table
    from prs_med.evaluate.unfinished import clear_up, made_by

    checkpoint = {"command": "eval", "checkpoint": settings.checkpoint}
    check_unclaimed("output_dir", output, checkpoint, RESULTS, overwrite=settings.overwrite)
    rank = this_process()
    answerer = Answerer.load(settings)
    opened = open_split(settings, answerer.settings, settings.strict, answerer.split)
    maker = made_by("eval", answerer, opened, settings)
    claim_folder("output_dir", output, maker, RESULTS, overwrite=settings.overwrite)
    result = evaluate(answerer, opened, settings, rank)
    if result is None:
        return
    write_results(output, result.metrics, result.rows)
    write_report(output, result, opened.questions, settings.pictures)
    clear_up(result.unfinished)
    print(table(result.metrics))
    print(f"report: {output / 'report.html'}")


def compare(argv: Sequence[str]) -> None:
    """Compare evaluations and write what differs."""
    number = next((n for n, word in enumerate(argv) if word.startswith("-")), len(argv))
    folders, options = argv[:number], argv[number:]
    settings = parse_settings(ComparisonSettings, options, _COMPARISON, f"{_PROGRAM} compare A B")
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise SettingError(
            "compare: give two folders or more, each once: python launch/eval.py compare A B"
        )
    check_folder("output_dir", settings.output_dir)
    from prs_med.evaluate.compare import compare_evaluations
    from prs_med.evaluate.table import comparison_table
    from prs_med.report.comparison_report import HTML

    print(comparison_table(compare_evaluations(folders, settings)))
    print(f"report: {Path(settings.output_dir) / HTML}")
