"""How far the run of these training settings has come: ``python launch/slurm/standing.py ...``

Prints the last step that is saved (``none`` if nothing is), and behind it what asked the run to
end, if it saved and ended because of that. With ``--uri`` in front of the settings it prints their
``--checkpoint_uri`` instead. For batch scripts; does not import PyTorch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from prs_med.checkpoint.open_place import open_place
from prs_med.config import SettingError, Settings
from prs_med.programs.program import refused
from prs_med.settings_io import parse_training_settings
from prs_med.storage.store import StorageAwayError, StorageError
from prs_med.train.status import STATUS


def main(argv: Sequence[str]) -> int:
    """Print where the run stands; the exit status: 0, 2 for a mistake in settings, or 75 where
    storage is away and the folder has no checkpoint either."""
    wants_uri = list(argv[:1]) == ["--uri"]
    try:
        settings = parse_training_settings(argv[wants_uri:], __doc__ or "")
        if wants_uri:
            print(settings.checkpoint_uri or "")
        else:
            print(saved_step(settings), asked_to_end_by(Path(settings.save_dir)))
    except (SettingError, StorageError) as error:
        return refused(error)
    return 0


def saved_step(settings: Settings) -> str:
    """The newest checkpoint's step, in the run's folder or on S3; S3 that is away does not count if
    the folder has one."""
    places = [f"{settings.save_dir}/checkpoints", settings.checkpoint_uri]
    steps: list[int] = []
    for uri in places:
        try:
            steps += [name.step for name in open_place(uri).checkpoints()] if uri else []
        except StorageAwayError:
            if not steps:
                raise
    return str(max(steps)) if steps else "none"


def asked_to_end_by(save_dir: Path) -> str:
    """What asked the last start to end after saving; nothing if it did not end so."""
    file = save_dir / STATUS
    status = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return str(status["reason"]) if status.get("state") == "stopped" else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
