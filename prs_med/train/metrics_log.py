"""What a run writes about itself: one JSON object per line, and DeepSpeed's monitors."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from prs_med.storage import strict_json


def whole_lines(content: bytes, last_step: float = math.inf) -> list[bytes]:
    """The lines of a log, without their ends, that can be read: of what is damaged, the rest.

    Args:
        content: of the file.
        last_step: leave out what was logged after this step.
    """
    lines = []
    for line in content.split(b"\n")[:-1]:
        # No reader needs this line more than a run needs to go on.
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= last_step:
                lines.append(line)
    return lines


class MetricsLog:
    """Appends to ``metrics.jsonl`` and forwards numbers to the monitors that the DeepSpeed
    configuration switches on (TensorBoard, W&B, Comet, CSV). Only rank 0 writes."""

    def __init__(self, path: Path, monitor: Any, active: bool) -> None:
        """``monitor`` is a DeepSpeed engine's."""
        self._monitor = monitor
        self._file = path.open("a", encoding="utf-8") if active else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record ``values`` (JSON-compatible; numbers also go to the monitors) at ``step``;
        a number that is not finite becomes null."""
        if self._file is None:
            return
        self._file.write(strict_json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._monitor.enabled:
            self._monitor.write_events(
                [
                    (f"prs_med/{name}", value, step)
                    for name, value in values.items()
                    if isinstance(value, int | float)
                ]
            )

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
