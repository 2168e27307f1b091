"""Copies of local checkpoints on S3, made in the background as fast as the network allows.

Process 0 chooses a checkpoint and names it in a task, a small file beside the checkpoints; every
process uploads its share of the files and leaves the task as its note; process 0 puts the manifest
when all notes are there, and tells the others. Nothing is kept in memory of what is still to do:
what is complete here and not there is copied, also at the next start.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.checkpoint.errors import BrokenCheckpointError, SupersededError
from prs_med.checkpoint.manifest import CheckpointName, parse_manifest
from prs_med.checkpoint.place import Place
from prs_med.storage.store import MissingFileError

_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_REPORT_SECONDS = 900.0
_TASK = "copying.json"
_MISSED = b"missed "

_logger = logging.getLogger("prs_med.checkpoint")


class Mirror:
    """One process's part in copying checkpoints from ``local`` to ``remote``."""

    def __init__(
        self,
        local: DirectoryPlace,
        remote: Place,
        rank: int,
        world: int,
        attempt: int,
        *,
        may_commit: Callable[[], None] = lambda: None,
        committed: Callable[[], None] = lambda: None,
        clear_up: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            may_commit: called on process 0 before a manifest is written; raises if it must not be.
            committed: called on process 0 after a copy is complete.
            clear_up: called on process 0 before the first copy, and again if it failed.
        """
        self._local = local
        self._remote = remote
        self._rank = rank
        self._world = world
        self._attempt = attempt
        self._may_commit = may_commit
        self._committed = committed
        self._clear_up = clear_up
        self._is_clear = False
        self._tasks = 0
        self._last_task = b""
        self._closing = threading.Event()
        # Copied, or damaged here so that they cannot be.
        self._done: set[CheckpointName] = set()
        # Complete there, perhaps with another manifest than here; of process 0.
        self._changed: set[CheckpointName] = set()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def changed(self, name: CheckpointName) -> None:
        """Take note, on process 0, that a complete checkpoint has got another manifest here."""
        self._changed.add(name)

    def finish(
        self, seconds: float, hurry: Callable[[], float | None] = lambda: None
    ) -> list[CheckpointName]:
        """Wait at most so long until all is copied; what is not known to have been.

        Args:
            hurry: asked again and again: seconds that are left from now on, if there are fewer all
                of a sudden.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._thread.is_alive() and self._is_behind():
            time.sleep(0.1)
            if (left := hurry()) is not None:
                deadline = min(deadline, time.monotonic() + left)
        self._closing.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._pending()

    def _work(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._closing.is_set():
            try:
                if self._rank == 0:
                    self._lead()
                else:
                    self._follow()
                pause = _PAUSE_SECONDS
            except SupersededError as error:
                _logger.error("checkpoints are no longer copied: %s", error)
                return
            except (OSError, BrokenCheckpointError, RuntimeError) as error:
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                _logger.warning(
                    "checkpoints are kept here until they can be copied: %s; next try in %.0f s",
                    error,
                    pause,
                )
            self._closing.wait(pause)

    def _pending(self) -> list[CheckpointName]:
        """Complete here, and not known to be done, newest first."""
        return [name for name in newest_only(self._local) if name not in self._done]

    def _is_behind(self) -> bool:
        return bool(self._pending() or self._changed)

    def _to_do(self) -> list[CheckpointName]:
        """Complete here and not there, newest first."""
        if pending := self._pending():
            there = set(self._remote.checkpoints()).intersection(pending)
            self._changed |= there  # They may be, by a start that was killed.
            self._set_done(there)
        return self._pending()

    def _set_done(self, names: set[CheckpointName]) -> None:
        if names:
            # The others first: once this process knows, it may end.
            self._tell(None, self._done | names)
            self._done |= names

    def _tell(self, name: CheckpointName | None, done: set[CheckpointName]) -> bytes:
        """Give the other processes a task, or none, and tell them what is done."""
        self._tasks += 1
        task = {
            "attempt": self._attempt,
            "task": self._tasks,
            "checkpoint": str(name or ""),
            # Not more than there are: it would grow with the run.
            "done": [str(known) for known in newest_only(self._local) if known in done],
        }
        text = json.dumps(task).encode()
        if self._world > 1:
            self._local.store.write(_TASK, text)
        return text

    def _lead(self) -> None:
        """Process 0 chooses what all copy together: each time the newest, for a slow network."""
        if not self._is_clear:
            self._clear_up()
            self._is_clear = True
        while not self._closing.is_set() and (names := self._to_do()):
            self._copy(names[0])
        for name in list(self._changed):
            # First, since it may change again.
            self._changed.discard(name)
            try:
                self._copy_manifest(name)
            except OSError:
                self._changed.add(name)
                raise

    def _copy_manifest(self, name: CheckpointName) -> None:
        try:
            manifest, there = self._local.manifest(name), self._remote.manifest(name)
            parse_manifest(manifest, self._local.where(name))
        except (MissingFileError, BrokenCheckpointError):
            return  # It was removed, because there are newer ones, or is passed over anyway.
        if manifest != there:
            self._may_commit()
            self._remote.amend(name, manifest)
            self._committed()

    def _copy(self, name: CheckpointName) -> None:
        task = self._tell(name, self._done)
        try:
            manifest = self._local.manifest(name)
            self._upload_share(name, manifest, task)
        except (MissingFileError, FileNotFoundError, BrokenCheckpointError) as error:
            self._pass_over(name, error)
            return
        if self._all_have_copied(name, task):
            self._may_commit()
            self._remote.commit(name, manifest)
            self._set_done({name})
            self._committed()

    def _pass_over(self, name: CheckpointName, error: Exception) -> None:
        # Unless it was removed in the meantime, because there are newer ones.
        if name in self._local.checkpoints():
            _logger.error("checkpoint %s is damaged here, and not copied: %s", name, error)
            self._set_done({name})

    def _follow(self) -> None:
        try:
            text = self._local.store.read(_TASK)
        except MissingFileError:
            return
        task = json.loads(text)
        if text == self._last_task or task["attempt"] != self._attempt:
            return
        self._done |= {name for known in task["done"] if (name := CheckpointName.parse(known))}
        if name := CheckpointName.parse(task["checkpoint"]):
            try:
                self._upload_share(name, self._local.manifest(name), text)
            except (MissingFileError, FileNotFoundError, BrokenCheckpointError):
                self._remote.report(name, self._rank, _MISSED + text)
        self._last_task = text

    def _upload_share(self, name: CheckpointName, data: bytes, task: bytes) -> None:
        manifest = parse_manifest(data, self._local.where(name))
        share = manifest.all_files[self._rank :: self._world]
        folder = self._remote.begin(name)
        try:
            for file in share:
                _link(Path(self._local.where(name)) / file.name, folder / file.name)
            for file in share:
                self._remote.publish(name, file)
        finally:
            for file in share:
                (folder / file.name).unlink(missing_ok=True)
        self._remote.report(name, self._rank, task)

    def _all_have_copied(self, name: CheckpointName, task: bytes) -> bool:
        """Wait for the others; False if one came too late, after it had been removed here."""
        deadline = time.monotonic() + _REPORT_SECONDS
        copied: set[int] = set()
        while True:
            notes = self._remote.reports(name, copied)
            copied.update(rank for rank, note in notes.items() if note == task)
            if len(copied) == self._world:
                return True
            if _MISSED + task in notes.values():
                self._pass_over(name, FileNotFoundError("another process does not find its files"))
                return False
            if self._closing.is_set() or time.monotonic() > deadline:
                raise RuntimeError(f"not all processes have copied their part of {name}")
            self._closing.wait(0.2)


def newest_only(place: DirectoryPlace) -> list[CheckpointName]:
    """The complete checkpoints, newest first."""
    return place.checkpoints()[::-1]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, so that it stays until it is uploaded."""
    with suppress(FileExistsError):
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            raise
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, target)
