"""Run by the deepspeed launcher: what takes some processes longer than a collective may.

Each writes what it was given into the folder that is its last argument.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from prs_med.quiet import quieten

quieten()

import torch.distributed as dist  # noqa: E402

from prs_med.data.records import DataError  # noqa: E402
from prs_med.train import distributed  # noqa: E402

LIMIT = timedelta(seconds=1.5)
"""Of every collective."""
LONGER = 2.5
"""Seconds of work."""


def main() -> None:
    """Let one process work, and then both."""
    dist.new_group = partial(dist.new_group, timeout=LIMIT)
    dist.init_process_group("gloo", timeout=LIMIT)
    rank = dist.get_rank()

    def after(seconds: float, value: Any) -> Callable[[], Any]:
        def work() -> Any:
            time.sleep(seconds)
            if isinstance(value, Exception):
                raise value
            return value

        return work

    found = [
        told(lambda: distributed.once(after(LONGER, f"of {rank}"))),
        told(lambda: distributed.once(after(0, DataError(f"error of {rank}")))),
        told(lambda: distributed.each(after(rank * LONGER, f"of {rank}"))),
        told(lambda: distributed.each(after((1 - rank) * LONGER, f"of {rank}"))),
        told(lambda: distributed.each(after(0, DataError("error of 1") if rank else "good"))),
    ]
    Path(sys.argv[-1], f"{rank}.json").write_text(json.dumps(found))
    distributed.stop()


def told(action: Callable[[], Any]) -> Any:
    """What an action gives, or the message of what it raises."""
    try:
        return action()
    except DataError as error:
        return str(error)


if __name__ == "__main__":
    main()
