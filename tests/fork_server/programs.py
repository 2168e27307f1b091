"""What tests use of the fork server: programs named by paths, to be started as any others."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fork_server.client import surroundings
from tests.patience import patience

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "PRS_MED_FORK_SERVER"
"""Variable that names the folder of this run of the tests, which all its processes share."""
SERVERS = 2
_START_LIMIT_S = 300
_VENV = Path(sys.executable).parent


def make_folder() -> None:
    """Once, by the first process of a run of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="prs-med-fork-server-"))
    (folder / "clients").mkdir()
    (folder / "owner").write_text(str(os.getpid()))
    os.environ[FOLDER] = str(folder)


def remove_folder() -> None:
    """By the same process at the end, when the servers end too."""
    shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


def programs() -> Path:
    """A folder with ``python``, ``deepspeed`` and ``torchrun``; the servers are started when it is
    first asked for."""
    folder = Path(os.environ[FOLDER])
    with _alone(folder):
        if not (folder / "bin").is_dir() and not _has_gpu():
            _start(folder)
    return folder / "bin" if (folder / "bin").is_dir() else _VENV


def python() -> str:
    """A Python that starts programs and modules in milliseconds."""
    return str(programs() / "python")


def process_of(client: int) -> int:
    """The process that runs the program of a client; of any other process, itself."""
    link = Path(os.environ[FOLDER]) / "clients" / str(client)
    return int(link.readlink().name) if link.is_symlink() else client


def _has_gpu() -> bool:
    """A process that is forked cannot use the GPUs that its parent has looked at."""
    return Path("/dev/nvidiactl").exists()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(folder: Path) -> None:
    owner = (folder / "owner").read_text()
    (folder / "surroundings.json").write_text(json.dumps(surroundings()))
    log = (folder / "log").open("w")
    # They are not one test's (tests/leftovers.py).
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    starting = {
        folder / f"{number}.socket": subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("server.py")),
                folder,
                str(number),
                owner,
            ],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": _with_root()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the tests, which end the programs that they have started.
            start_new_session=True,
        )
        for number in range(SERVERS)
    }
    deadline = time.monotonic() + patience(_START_LIMIT_S)
    while not all(socket.exists() for socket in starting):
        dead = [server for server in starting.values() if server.poll() is not None]
        assert not dead, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the fork servers do not start"
        time.sleep(0.05)
    draft = folder / "bin.draft"
    draft.mkdir()
    _write_client(folder, draft, "python", "")
    _write_client(folder, draft, "python3", "")
    for launcher in ("deepspeed", "torchrun"):
        _write_client(folder, draft, launcher, str(_VENV / launcher))
    draft.rename(folder / "bin")


def _write_client(folder: Path, where: Path, name: str, script: str) -> None:
    client = Path(__file__).with_name("client.py")
    alias = folder / "bin" / "python"
    command = f'exec "{sys.executable}" -I -S "{client}" "{folder}" "{sys.executable}" "{alias}"'
    path = where / name
    path.write_text(
        f'#!/bin/sh\n{command} {script!r} "$@"\n' if script else f'#!/bin/sh\n{command} "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _with_root() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
