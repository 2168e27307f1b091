"""Starts trainers by forking, so that each start costs milliseconds and no imports.

One line of JSON on standard input for each trainer; answers are lines of JSON: ``{"started": pid}``
and ``{"ended": pid, "code": code}``. It ends, with its trainers, when its input ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading

from tests.crash.crash_points import Crash
from tests.crash.trainer import Plan, main

_DIE_WITH_PARENT = 1


def _serve() -> None:
    for line in sys.stdin.buffer:
        order = json.loads(line)
        crash = order["plan"].pop("crash")
        plan = Plan(**order["plan"], crash=Crash(**crash) if crash else None)
        process = os.fork()
        if process == 0:
            _become(plan, order["log"])
        _answer({"started": process})
        threading.Thread(target=_wait, args=(process,), daemon=True).start()


def _become(plan: Plan, log: str) -> None:
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(number, target)
        code = main(plan)
        sys.stdout.flush()
    finally:
        os._exit(code)


def _wait(process: int) -> None:
    _, status = os.waitpid(process, 0)
    _answer({"ended": process, "code": os.waitstatus_to_exitcode(status)})


def _answer(message: dict[str, int]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    _serve()
