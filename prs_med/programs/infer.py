"""Ask a trained model: ``python launch/infer.py --checkpoint runs/prs-med/best ...``

About one image (--image, --question), the images of a folder (--images, --question), the rows of
a CSV file (--csv), a dataset (--data) or annotated images (--data_root). Writes to OUTPUT_DIR:

results.csv     questions, answers, zones, and where the pictures are
masks/          in the images' own size, 0 and 255
overlays/       the same drawn on the images
triplets/       image, true mask and predicted mask side by side
probabilities/  with --probability_maps

An image that cannot be read has its error in results.csv; --strict stops at it. In a folder, masks,
results of commands and files that are no pictures are passed over, and said to be. Several GPUs:
deepspeed launch/infer.py, torchrun or srun. An interrupted run goes on when the same command is
given again. Exit status: 0 done, 2 a mistake in settings, data or weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from prs_med.answering_config import InferenceSettings
from prs_med.config import SettingError
from prs_med.programs.program import program
from prs_med.settings_io import parse_settings
from prs_med.storage.results_folder import check_folder, claim_folder, description, made_by_in


@program
def main(argv: Sequence[str]) -> int:
    """Answer and return the exit status: 0 done, 2 a mistake in settings, data or weights."""
    settings = parse_settings(InferenceSettings, argv, __doc__ or "", "python launch/infer.py")
    settings.require()
    run(settings)
    return 0


def run(settings: InferenceSettings) -> None:
    """Answer every question and write what was answered."""
    # Slow to import, and a mistake in the settings should show at once.
    from prs_med.data.position_words import position_words

    position_words(settings.position_words)
    from prs_med.evaluate.answering import Answerer
    from prs_med.evaluate.inference import RESULTS, WRITTEN, infer
    from prs_med.evaluate.open_questions import open_asked
    from prs_med.evaluate.processes import this_process
    from prs_med.evaluate.unfinished import made_by

    rank = this_process()
    output = check_folder("output_dir", settings.output_dir)
    if rank.index == 0 and (output / RESULTS).exists():
        maker = description(made_by_in(output)) or "something of unknown origin"
        raise SettingError(
            f"--output_dir {output}, {maker}, already holds results: give another folder"
        )
    answerer = Answerer.load(settings)
    written = [output / name for name in WRITTEN]
    opened = open_asked(settings, answerer.settings, answerer.split, written)
    claim_folder("output_dir", output, made_by("infer", answerer, opened, settings), WRITTEN)
    rows = infer(answerer, opened, settings, rank)
    if rows is None:
        return
    if settings.image:
        print(rows[0]["pred_answer"] or f"error: {rows[0]['error']}")
    failures = sum(bool(row["error"]) for row in rows)
    without = f", {failures} without an answer (see the column error)" if failures else ""
    print(f"{len(rows)} questions{without}: {output / RESULTS}")
