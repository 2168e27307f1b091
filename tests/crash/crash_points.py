"""Where a process kills itself: before or after the n-th call of a function that saving uses.

The functions are wrapped from outside; the program that is tested knows nothing of it.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prs_med.checkpoint import checked_file, directory_place
from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.ownership import Ownership
from prs_med.checkpoint.s3_place import S3Place
from prs_med.storage import directory, s3
from prs_med.storage.directory import DirectoryStore
from tests.crash.computation import Part

_PLACE = ("begin", "publish", "report", "reports", "commit", "discard", "remove", "sweep")
_STORE = ("create", "write", "delete")
_SYSTEM: list[tuple[Any, str]] = [
    *((os, name) for name in ("fsync", "replace", "link")),
    *((Path, name) for name in ("rename", "unlink")),
    (shutil, "rmtree"),
]
_OBJECTS = ("files", "reports", "manifests", "attempts", "lease.json")


@dataclass(frozen=True)
class Crash:
    """What kills a process, and perhaps all others with it."""

    rank: int
    point: str
    """Name of a function, and ``before`` or ``after``."""
    call: int
    """Counted from 1."""
    everybody: bool


class CrashPoints:
    """Wraps the functions of this process, and counts their calls."""

    def __init__(self, rank: int, crash: Crash | None) -> None:
        self.counts: Counter[str] = Counter()
        self.peers: list[int] = []
        """Ids of all processes, for a crash of everybody."""
        self._rank = rank
        self._crash = crash
        self._lock = threading.Lock()
        self._wrap_everything()

    def reached(self, point: str) -> None:
        """Note that a point was reached, and crash if that is planned."""
        with self._lock:
            self.counts[point] += 1
            crash = self._crash
            if crash is None or (crash.rank, crash.point) != (self._rank, point):
                return
            if self.counts[point] == crash.call:
                others = [process for process in self.peers if process != os.getpid()]
                for process in [*(others if crash.everybody else ()), os.getpid()]:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    def _wrap_everything(self) -> None:
        self._wrap(Part, "snapshot", "snapshot")
        self._wrap(Ownership, "check", "may_commit")
        for name in _PLACE:
            self._wrap(DirectoryPlace, name, f"place.{name}")
            self._wrap(S3Place, name, f"place.{name}")
        for name in _STORE:
            self._wrap(DirectoryStore, name, f"store.{name}")
        for owner, name in _SYSTEM:
            self._wrap(owner, name, f"{owner.__name__}.{name}")
        replace_is_a_default = (os.replace,)
        DirectoryStore._replace.__defaults__ = replace_is_a_default
        self._wrap(directory, "sync_folder", "sync_folder")
        self._wrap(directory_place, "sync_folder", "sync_folder")
        self._wrap_blocks()
        self._wrap_s3()

    def _wrap(self, owner: Any, name: str, point: str) -> None:
        setattr(owner, name, self._crashing(getattr(owner, name), lambda _: point))

    def _crashing(
        self, function: Callable[..., Any], point: Callable[[dict[str, Any]], str]
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def crashing(*args: Any, **kwargs: Any) -> Any:
            name = point(kwargs)
            self.reached(f"before {name}")
            result = function(*args, **kwargs)
            self.reached(f"after {name}")
            return result

        return crashing

    def _wrap_blocks(self) -> None:
        write_blocks = checked_file._write_blocks

        def crashing(file: Any, parts: Any, name: str) -> Any:
            return write_blocks(_FlushedFile(file, self), parts, name)

        checked_file._write_blocks = crashing

    def _wrap_s3(self) -> None:
        new_client = s3._new_client

        def crashing_client(uri: str, bucket: str) -> Any:
            client, anonymous = new_client(uri, bucket)
            for operation, verb in (("put_object", "PUT"), ("delete_object", "DELETE")):
                plain = getattr(client, operation)
                setattr(client, operation, self._crashing(plain, functools.partial(_verb, verb)))
            return client, anonymous

        s3._new_client = crashing_client


def _verb(verb: str, request: dict[str, Any]) -> str:
    """Such as ``PUT files``."""
    return f"{verb} {next(kind for kind in _OBJECTS if kind in request['Key'].split('/'))}"


class _FlushedFile:
    """A file in which each block is there when the next one is written."""

    def __init__(self, file: Any, points: CrashPoints) -> None:
        self._file = file
        self._points = points

    def write(self, block: memoryview) -> None:
        self._points.reached("before block")
        half = len(block) // 2
        self._file.write(block[:half])
        self._file.flush()
        self._points.reached("within block")
        self._file.write(block[half:])
        self._file.flush()
        self._points.reached("after block")
