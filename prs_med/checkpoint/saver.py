"""Write checkpoints in the background: every process its files, process 0 the manifest last."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.manifest import CheckpointName, Group, Manifest, Shard, StoredFile
from prs_med.checkpoint.place import Place
from prs_med.checkpoint.shard_files import SHARD_BYTES, write_files
from prs_med.checkpoint.snapshot import Snapshot
from prs_med.storage.retry import waiting_for_storage
from prs_med.storage.store import StorageAwayError

_POLL_SECONDS = 0.05
_LONGEST_POLL_SECONDS = 1.0
REPORT_SECONDS = 900.0
"""How long process 0 waits for the others."""

_logger = logging.getLogger("prs_med.checkpoint")


@dataclass(frozen=True)
class Outcome:
    """What became of a save."""

    name: CheckpointName
    error: str = ""
    """Why there is no checkpoint; empty if there is one."""
    superseded: bool = False
    """Whether that is because another attempt has taken over."""
    away: bool = False
    """Whether that is because the place did not answer, so that it may succeed later."""
    seconds: float = 0.0


class Saver:
    """One process's part in saving. Only one save is under way at a time."""

    def __init__(
        self,
        place: Place,
        rank: int,
        world: int,
        run: str,
        *,
        may_commit: Callable[[], None] = lambda: None,
        committed: Callable[[CheckpointName], None] = lambda name: None,
        shard_bytes: int = SHARD_BYTES,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        """
        Args:
            run: identity of the run.
            may_commit: called on process 0 before a manifest is written; raises if it must not be.
            committed: called on process 0, in the background, after a checkpoint is complete.
        """
        self._place = place
        self._rank = rank
        self._world = world
        self._run = run
        self._may_commit = may_commit
        self._committed = committed
        self._shard_bytes = shard_bytes
        self._report_seconds = report_seconds
        self._saves = 0
        """So many so far, the same on every process: tells the notes of one from those that a
        failed one of the same name has left."""
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        self._manifest: Manifest | None = None
        """Of the last checkpoint, on process 0."""

    @property
    def busy(self) -> bool:
        """Whether a save is under way in this process."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, name: CheckpointName, snapshot: Snapshot) -> None:
        """Start to save; every process calls this with the same name."""
        assert not self.busy, "one save at a time"
        self._outcome = None
        self._saves += 1
        self._thread = threading.Thread(
            target=self._work, args=(name, snapshot), name="checkpoint", daemon=True
        )
        self._thread.start()

    def amend(self, name: CheckpointName, state: dict[str, Any]) -> None:
        """Start to replace what training says of itself in the last checkpoint, which is complete
        and of this name; process 0 alone calls this. Its weights stay as they are."""
        assert not self.busy, "one save at a time"
        self._outcome = None
        self._thread = threading.Thread(
            target=self._amend, args=(name, state), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> Outcome | None:
        """Wait until the save under way has ended; what became of the last one."""
        if self._thread is not None:
            # In a folder it may hang. Requests have time limits, and the others are not waited
            # for without end.
            is_far = "://" in self._place.store.uri
            with waiting_for_storage() if is_far else nullcontext():
                self._thread.join()
        return self._outcome

    def _work(self, name: CheckpointName, snapshot: Snapshot) -> None:
        begun = time.monotonic()
        error, superseded, away = "", False, False
        try:
            self._write(name, snapshot)
            if self._rank == 0:
                self._commit(name, snapshot)
        except Exception as failure:  # Training goes on, whatever happened here.
            error = f"process {self._rank}: {failure}" if str(failure) else repr(failure)
            superseded = isinstance(failure, SupersededError)
            away = isinstance(failure, StorageAwayError)
            self._give_up(name, error, superseded, away)
        seconds = time.monotonic() - begun
        self._outcome = Outcome(name, error, superseded, away, seconds)
        if self._rank == 0 and not error:
            _logger.debug("checkpoint %s is complete after %.2f s", name, seconds)
            self._committed(name)

    def _write(self, name: CheckpointName, snapshot: Snapshot) -> None:
        folder = self._place.begin(name)
        shards: list[Shard] = []
        files: list[StoredFile] = []
        for written in write_files(folder, snapshot, self._rank, self._shard_bytes):
            if isinstance(written, Shard):
                shards.append(written)
                self._place.publish(name, written.file)
            else:
                files.append(written)
                self._place.publish(name, written)
        self._report(
            name, {"shards": [asdict(s) for s in shards], "files": [asdict(f) for f in files]}
        )

    def _report(self, name: CheckpointName, note: dict[str, Any]) -> None:
        text = json.dumps({"save": self._saves, **note})
        self._place.report(name, self._rank, text.encode())

    def _commit(self, name: CheckpointName, snapshot: Snapshot) -> None:
        notes = self._wait_for_all(name)
        shards = [
            Shard(**{**shard, "file": StoredFile(**shard["file"])})
            for note in notes
            for shard in note["shards"]
        ]
        manifest = Manifest(
            name=str(name),
            run=self._run,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            world_size=self._world,
            groups={
                group: Group(owned.parameters, owned.optimizer_steps)
                for group, owned in snapshot.groups.items()
            },
            shards=shards,
            files=[StoredFile(**file) for note in notes for file in note["files"]],
            state=snapshot.state,
        )
        self._may_commit()
        if not self._place.commit(name, manifest.dumps()):
            raise SupersededError(f"{self._place.where(name)}: is there already, from elsewhere")
        self._manifest = manifest

    def _amend(self, name: CheckpointName, state: dict[str, Any]) -> None:
        assert self._manifest is not None, "the last checkpoint is complete"
        assert self._manifest.name == str(name), "it is the last one"
        problem = ""
        try:
            manifest = replace(self._manifest, state=state)
            self._may_commit()
            self._place.amend(name, manifest.dumps())
            self._manifest = manifest
        except SupersededError as failure:
            problem = str(failure)
        except Exception as failure:  # The checkpoint itself is complete, and training goes on.
            _logger.error("checkpoint %s keeps no scores: %s", name, failure)
        self._outcome = Outcome(name, problem, superseded=bool(problem))
        if not problem:
            self._committed(name)

    def _wait_for_all(self, name: CheckpointName) -> list[dict[str, Any]]:
        begun = time.monotonic()
        found: dict[int, dict[str, Any]] = {}
        while True:
            for rank, text in self._place.reports(name, found.keys()).items():
                note = json.loads(text)
                if note["save"] != self._saves:
                    continue
                if "error" in note:
                    error = f"process {rank} could not write its part: {note['error']}"
                    raise StorageAwayError(error) if note["away"] else RuntimeError(error)
                found[rank] = note
            if len(found) == self._world:
                return [found[rank] for rank in range(self._world)]
            waited = time.monotonic() - begun
            if waited > self._report_seconds:
                silent = sorted(set(range(self._world)) - found.keys())
                raise RuntimeError(
                    f"no word from process {silent[0]}"
                    + (f" and {len(silent) - 1} more" if silent[1:] else "")
                    + f" in {self._report_seconds:.0f} s"
                )
            # The longer it takes, the less a further moment matters, and looking costs requests.
            time.sleep(min(_LONGEST_POLL_SECONDS, max(_POLL_SECONDS, waited / 10)))

    def _give_up(self, name: CheckpointName, error: str, superseded: bool, away: bool) -> None:
        if self._rank == 0:
            then = "" if superseded else "; training goes on"
            _logger.error("checkpoint %s was not saved: %s%s", name, error, then)
            self._place.discard(name)
            return
        try:
            self._report(name, {"error": error, "away": away})
        except OSError as failure:
            _logger.error(
                "checkpoint %s: %s, and that cannot be reported: %s", name, error, failure
            )
