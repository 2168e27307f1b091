"""The processes of one start after the other, through a zygote."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash.trainer import FAILED, Plan
from tests.patience import patience

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 240.0


class Processes:
    """Starts trainers and waits for their end."""

    def __enter__(self) -> Self:
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._answers: queue.Queue[dict[str, int]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait()

    def run(
        self, plan: Plan, world: int, at_start: Callable[[list[int]], None], grace_s: float
    ) -> list[int]:
        """Start ``world`` processes; when one ends before its time, kill the others, as launchers
        do. The exit codes in the order in which they ended.

        Args:
            at_start: told the ids of the processes.
            grace_s: for how long the others may go on.
        """
        log = Path(plan.folder) / "log"
        group = f"prs-med-{uuid.uuid4().hex}"
        running = []
        for rank in range(world):
            self._say(replace(plan, rank=rank, world=world, group=group), log)
            running.append(self._hear()["started"])
        at_start(list(running))
        codes = []
        while running:
            ended = self._hear()
            running.remove(ended["ended"])
            codes.append(ended["code"])
            if ended["code"] and running:
                time.sleep(grace_s)
                kill(running)
        assert FAILED not in codes, log.read_text()
        return codes

    def _say(self, plan: Plan, log: Path) -> None:
        assert self._zygote.stdin is not None
        order = {"plan": asdict(plan), "log": str(log)}
        self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
        self._zygote.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        return self._answers.get(timeout=patience(LIMIT_SECONDS))

    def _listen(self) -> None:
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            self._answers.put(json.loads(line))


def kill(processes: list[int]) -> None:
    """Kill processes that the zygote has started."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
