"""Checkpoints: look at them, check them, and turn them into other layouts.

CHECKPOINT is a training checkpoint: its folder (runs/a/checkpoints/step-00000500-01) or its
manifest on S3 (s3://bucket/a/manifests/step-00000500-01.json); or a run (runs/a, s3://bucket/a),
which means its newest checkpoint. WEIGHTS is one too, or a folder with trained weights
(runs/a/best).

python launch/export.py inspect CHECKPOINT
    What it holds and how it came about; --json for programs.

python launch/export.py verify CHECKPOINT
    Read every byte and compare it with its checksums; --all for all checkpoints of a run.

python launch/export.py trained CHECKPOINT --output_dir NEW
    A folder with trained weights, for launch/eval.py and launch/infer.py (--checkpoint) and
    launch/train.py (--init_from).

python launch/export.py merged WEIGHTS --output_dir NEW
    One LLaVA model for transformers, LoRA merged in, with segmentation.safetensors.

python launch/export.py export-released WEIGHTS --output_dir NEW
    The layout of released PRS-Med checkpoints.

python launch/export.py import-released DIR --vlm_path MODEL --output_dir NEW
    The way back: a released PRS-Med checkpoint becomes a folder with trained weights.

Each command has its own --help. Exit status: 0 done, 1 'verify' found something, 2 a mistake in
settings or weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prs_med.config import (
    ExportSettings,
    ImportSettings,
    InspectSettings,
    MergedExportSettings,
    SettingError,
    TrainedExportSettings,
    VerifySettings,
    names_in,
)
from prs_med.programs.commands import Command, run_command
from prs_med.programs.program import program
from prs_med.storage import strict_json
from prs_med.storage.results_folder import check_folder


@program
def main(argv: Sequence[str]) -> int:
    """Run a command and return the exit status: 0 done, 1 'verify' found something, 2 a mistake in
    settings or weights."""
    return run_command("python launch/export.py", __doc__ or "", COMMANDS, argv)


def run_inspect(settings: InspectSettings) -> int:
    """``inspect``."""
    from prs_med.checkpoint.manifest import FORMAT
    from prs_med.export.inspection import inspect_text
    from prs_med.export.named_checkpoint import find_checkpoints

    found = find_checkpoints(settings.checkpoint)
    reader = found.open()
    if settings.json:
        print(strict_json.dumps({"format": FORMAT, **asdict(reader.manifest)}, indent=2))
        return 0
    print(inspect_text(reader.manifest, reader.where))
    if found.names[:-1]:
        print(f"older ones  {', '.join(map(str, found.names[:-1]))}")
    return 0


def run_verify(settings: VerifySettings) -> int:
    """``verify``."""
    from prs_med.export.named_checkpoint import find_checkpoints
    from prs_med.export.verification import verify

    found = find_checkpoints(settings.checkpoint)
    names = found.names if settings.all else [found.newest]
    broken = False
    for line, problem in verify(found.place, names, show_progress=sys.stderr.isatty()):
        print(f"{line}: {problem}" if problem else line, flush=True)
        broken |= bool(problem)
    return 1 if broken else 0


def run_trained(settings: TrainedExportSettings) -> int:
    """``trained``."""
    output = _new(settings.output_dir)

    from prs_med.export.named_checkpoint import find_checkpoints
    from prs_med.export.trained_folder import export_trained

    reader = find_checkpoints(settings.checkpoint).open()
    print(f"weights of {reader.where}")
    export_trained(
        reader,
        output,
        vlm_path=settings.vlm_path,
        vision_tower=settings.vision_tower,
        sam_ckpt=settings.sam_ckpt,
    )
    print(f"{output}: give it as --checkpoint (eval.py, infer.py) or --init_from (train.py)")
    return 0


def run_merged(settings: MergedExportSettings) -> int:
    """``merged``."""
    output = _new(settings.output_dir)

    from prs_med.export.as_folder import as_trained_folder
    from prs_med.export.merged_model import export_merged

    base = (settings.vlm_path, settings.vision_tower)
    with as_trained_folder(settings.checkpoint, *base) as folder:
        export_merged(folder, output, settings.dtype, *base)
    print(f"{output}: LlavaForConditionalGeneration.from_pretrained loads it; eval.py too")
    return 0


def run_export(settings: ExportSettings) -> int:
    """``export-released``."""
    output = _new(settings.output_dir)

    from prs_med.export.as_folder import as_trained_folder
    from prs_med.model.released import export_released

    base = (settings.vlm_path, settings.vision_tower)
    with as_trained_folder(settings.checkpoint, *base) as folder:
        export_released(folder, output, settings.sam_ckpt)
    print(output)
    return 0


def run_import(settings: ImportSettings) -> int:
    """``import-released``."""
    output = check_folder("output_dir", settings.output_dir)

    from prs_med.model.released import RELEASED_MODALITIES, import_released

    import_released(
        Path(settings.released),
        output,
        settings.vlm_path,
        tuple(names_in(settings.modalities)) if settings.modalities else RELEASED_MODALITIES,
        settings.vision_tower,
    )
    print(f"{settings.output_dir}: give it as --checkpoint (eval.py) or --init_from (train.py)")
    return 0


def _new(output_dir: str) -> Path:
    """The folder to write; refused before anything is computed if it is there."""
    output = check_folder("output_dir", output_dir)
    if output.exists():
        raise SettingError(f"--output_dir {output} exists already: name a new folder, or remove it")
    return output


COMMANDS: dict[str, Command[Any]] = {
    "inspect": Command(InspectSettings, run_inspect, "runs/a"),
    "verify": Command(VerifySettings, run_verify, "s3://bucket/a --all"),
    "trained": Command(TrainedExportSettings, run_trained, "runs/a --output_dir exported/trained"),
    "merged": Command(MergedExportSettings, run_merged, "runs/a/best --output_dir exported/merged"),
    "export-released": Command(
        ExportSettings, run_export, "runs/a/best --output_dir exported/released"
    ),
    "import-released": Command(
        ImportSettings,
        run_import,
        "released --vlm_path microsoft/llava-med-v1.5-mistral-7b --output_dir imported",
    ),
}
