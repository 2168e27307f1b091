"""``status.json``: how a run ended, for scripts. Not every launcher passes on an exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

STATUS = "status.json"

State = Literal["running", "stopped", "complete"]


def write_status(folder: Path, state: State, step: int, reason: str = "") -> None:
    """Say where a run stands.

    Args:
        state: ``running`` also after a crash; ``stopped``: saved, to go on with ``--resume auto``.
        step: the last step that was done.
        reason: what asked it to stop.
    """
    draft = folder / f".{STATUS}"
    text = json.dumps({"state": state, "step": step, "reason": reason})
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(folder / STATUS)
