"""Trained weights in other layouts.

python launch/export.py import-released --released DIR --vlm_path MODEL --output_dir NEW
    A released PRS-Med checkpoint becomes a folder with trained weights, for launch/eval.py
    (--checkpoint) and launch/train.py (--init_from).

python launch/export.py export-released --checkpoint DIR --output_dir NEW
    The way back.

Each command has its own --help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prs_med.quiet import quieten

quieten()

from prs_med.config import ExportSettings, ImportSettings, SettingError, names_in  # noqa: E402
from prs_med.model.errors import CheckpointError  # noqa: E402
from prs_med.model.released import (  # noqa: E402
    RELEASED_MODALITIES,
    export_released,
    import_released,
)
from prs_med.settings_io import parse_settings  # noqa: E402


def main(argv: Sequence[str]) -> int:
    """Run a command and return the exit status: 0 done, 2 a mistake in settings or weights."""
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "import-released": run_import,
        "export-released": run_export,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] not in commands:
        print(f"error: {argv[0]}: allowed are {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[argv[0]](argv[1:])
    except (SettingError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run_import(argv: Sequence[str]) -> None:
    """``import-released``."""
    settings = parse_settings(ImportSettings, argv, ImportSettings.__doc__ or "")
    settings.require("released", "vlm_path", "output_dir")
    import_released(
        Path(settings.released),
        Path(settings.output_dir),
        settings.vlm_path,
        tuple(names_in(settings.modalities)) if settings.modalities else RELEASED_MODALITIES,
        settings.vision_tower,
    )
    print(f"{settings.output_dir}: give it as --checkpoint (eval.py) or --init_from (train.py)")


def run_export(argv: Sequence[str]) -> None:
    """``export-released``."""
    settings = parse_settings(ExportSettings, argv, ExportSettings.__doc__ or "")
    settings.require("checkpoint", "output_dir")
    export_released(Path(settings.checkpoint), Path(settings.output_dir), settings.sam_ckpt)
    print(settings.output_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
