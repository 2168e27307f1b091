"""Starting the project's programs from tests: in milliseconds by fork, or afresh as users do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests.fork_server import programs as forked
from tests.patience import patience

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 800


def command(program: str, *arguments: object, afresh: bool = False) -> list[str]:
    """The words of a command.

    Args:
        program: ``train``, ``data``, ... for launch/train.py, ...; the path of another script; or
            the name of a module of the tests.
        afresh: with an interpreter that starts from nothing; see ``tests.fork_server``.
    """
    words = [program if program.endswith(".py") else f"launch/{program}.py"]
    if program.startswith("tests."):
        words = ["-m", program]
    return [str(launchers(afresh) / "python"), *words, *map(str, arguments)]


def launchers(afresh: bool = False) -> Path:
    """The folder with ``python``, ``deepspeed`` and ``torchrun``."""
    return Path(sys.executable).parent if afresh else forked.programs()


def environment(**more: str) -> dict[str, str]:
    """That of this process, with ``more``."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def run(
    program: str, *arguments: object, afresh: bool = False, cwd: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Args:
        more: variables of its environment.
    """
    return subprocess.run(
        command(program, *arguments, afresh=afresh),
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=patience(LIMIT_S),
        check=False,
    )


def succeed(program: str, *arguments: object, **more: Any) -> str:
    """Run a program, which must succeed; its standard output."""
    done = run(program, *arguments, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def start(
    program: str,
    *arguments: object,
    afresh: bool = False,
    cwd: Path = ROOT,
    stdin: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = subprocess.STDOUT,
    **more: str,
) -> subprocess.Popen[str]:
    """Start a program. By fork, ``tests.fork_server.programs.process_of`` has its own number."""
    return subprocess.Popen(
        command(program, *arguments, afresh=afresh),
        cwd=cwd,
        env=environment(**more),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def kill(*processes: subprocess.Popen[str]) -> None:
    """Kill programs at once, and wait until they have ended."""
    for process in processes:
        with suppress(ProcessLookupError):  # it may have ended by itself
            if process.poll() is None:
                os.kill(forked.process_of(process.pid), signal.SIGKILL)
    for process in processes:
        process.wait()


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> str:
    """The one line by which a program refused what it was given, which has these parts."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line
    return line
