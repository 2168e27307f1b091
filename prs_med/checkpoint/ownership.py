"""Which start of a run may save to a place: never two at once, and never one that was replaced.

Each start of a run is an attempt, claimed by creating ``attempts/<number>.json``, which only one
process in the world can do. It writes ``lease.json``. Who finds a lease knocks, by a file of its
own beside the attempts, and waits to see whether the lease is renewed: no clocks are compared.
Nothing is written while nobody knocks, since a bucket with versions would keep each of these
writes.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from prs_med.checkpoint.errors import SupersededError
from prs_med.storage.store import MissingFileError, StorageError, Store

LOOK_SECONDS = 15.0
"""Seconds after which its holder looks again whether somebody knocks."""
PATIENCE_SECONDS = 60.0
"""How long a lease counts that is not renewed though somebody knocks."""

_ATTEMPTS = "attempts/"
_KNOCK = f"{_ATTEMPTS}knock-"
_LEASE = "lease.json"
_logger = logging.getLogger("prs_med.checkpoint")


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    number: int
    run: str


@dataclass(frozen=True)
class _Holder:
    """Who holds a lease."""

    attempt: int
    host: str
    process: int
    namespace: str
    """Identity of the machine's boot and of the process numbers that are seen there."""
    job: str
    """The scheduler's name of the job, the same when it is started again; may be empty."""
    renewals: int = 0


def last_attempt(store: Store) -> Attempt | None:
    """The newest attempt that was claimed, if any.

    Raises:
        StorageError: it cannot be found out.
    """
    return _newest(store, store.names(_ATTEMPTS))


def _newest(store: Store, names: list[str]) -> Attempt | None:
    claims = [name for name in names if name.endswith(".json")]
    if not claims:
        return None
    newest = max(claims)
    claim = json.loads(store.read(newest))
    return Attempt(int(newest.removeprefix(_ATTEMPTS).removesuffix(".json")), claim["run"])


class Ownership:
    """The right to save to a place, from :func:`claim` until :meth:`release`."""

    def __init__(self, store: Store, attempt: Attempt, job: str) -> None:
        self.attempt = attempt
        self._store = store
        self._holder = _this_process(attempt.number, job)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that no later attempt was started.

        Raises:
            SupersededError: one was.
            StorageError: it cannot be found out.
        """
        self._look()

    def _look(self) -> set[str]:
        """As :meth:`check`; the names of those who knock."""
        names = self._store.names(_ATTEMPTS)
        last = _newest(self._store, names)
        if last is not None and last != self.attempt:
            raise SupersededError(
                f"{self._store.where(_ATTEMPTS)}: attempt {last.number} of run {last.run} has "
                f"taken over from this one ({self.attempt.number}), which may not save any more"
            )
        return {name for name in names if name.startswith(_KNOCK)}

    def release(self) -> None:
        """Give the place free at the end."""
        self._done.set()
        self._thread.join()
        try:
            # Only if it is still ours.
            found = _read_lease(self._store)
            if found is not None and found.attempt == self.attempt.number:
                self._store.delete(_LEASE)
        except StorageError as error:
            _logger.warning("the lease stays until it expires: %s", error)

    def _renew(self) -> None:
        renewals = 0
        answered: set[str] = set()
        removed: set[str] = set()
        while True:
            try:
                knocks = self._look()
                if not renewals or knocks - answered:
                    holder = _Holder(**{**asdict(self._holder), "renewals": renewals})
                    self._store.write(_LEASE, json.dumps(asdict(holder)).encode())
                    renewals += 1
                # Who still knocks after an answer is gone, and removes nothing any more.
                gone = (knocks & answered) - removed
                answered, removed = answered | knocks, removed | gone
                for knock in gone:
                    self._store.delete(knock)
            except SupersededError:
                return  # To write now would hide the one that runs.
            except StorageError as error:
                _logger.warning("the lease could not be renewed: %s", error)
            if self._done.wait(LOOK_SECONDS):
                return


def claim(
    store: Store,
    run: str,
    after: int,
    say: Callable[[str], None],
    patience: float = PATIENCE_SECONDS,
) -> Ownership:
    """Start the attempt after ``after`` of ``run``.

    Args:
        store: of the place.
        after: number of the newest attempt that is known; 0 for a new run.
        say: told what is waited for.
        patience: seconds after which a lease counts for nothing that is not renewed.

    Raises:
        SupersededError: another process saves there.
        StorageError: the place cannot be used.
    """
    job = _job()
    _wait_for_the_lease(store, job, say, patience)
    attempt = Attempt(after + 1, run)
    text = json.dumps({"run": run, **asdict(_this_process(attempt.number, job))}).encode()
    if not store.create(f"{_ATTEMPTS}{attempt.number:06d}.json", text):
        raise SupersededError(
            f"{store.uri}: another process has just started to save there; give each run a folder "
            "of its own"
        )
    return Ownership(store, attempt, job)


def _wait_for_the_lease(
    store: Store, job: str, say: Callable[[str], None], patience: float
) -> None:
    found = _read_lease(store)
    if found is None or _is_over(found, job):
        return
    who = f"process {found.process} on {found.host}"
    say(
        f"{store.uri}: {who} was saving there; waiting up to {patience:.0f} s to see whether it "
        "still runs"
    )
    with _knocking(store):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(min(1.0, patience / 20))
            now = _read_lease(store)
            if now is None:
                return
            if now != found:
                raise SupersededError(
                    f"{store.uri}: {who} is saving there; give this run another folder, or end "
                    "that one"
                )


@contextmanager
def _knocking(store: Store) -> Iterator[None]:
    """Ask whoever holds the lease to renew it."""
    knock = f"{_KNOCK}{uuid4().hex}"
    store.write(knock, b"")
    try:
        yield
    finally:
        try:
            store.delete(knock)
        except StorageError as error:
            _logger.warning("a file that serves no more stays: %s", error)


def _is_over(holder: _Holder, job: str) -> bool:
    """Whether the process that held a lease is known to have ended."""
    if job and holder.job == job:
        return True
    here = _this_process(0, job)
    if (holder.host, holder.namespace) != (here.host, here.namespace):
        return False
    try:
        status = Path(f"/proc/{holder.process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    # A process that ended stays there as a zombie until its parent asks for it.
    return status.rpartition(")")[2].split()[0] in ("Z", "X")


def _read_lease(store: Store) -> _Holder | None:
    try:
        return _Holder(**json.loads(store.read(_LEASE)))
    except MissingFileError:
        return None
    except (ValueError, TypeError) as error:
        raise StorageError(f"{store.where(_LEASE)}: is no lease ({error})") from None


def _this_process(attempt: int, job: str) -> _Holder:
    return _Holder(attempt, socket.gethostname(), os.getpid(), _namespace(), job)


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _job() -> str:
    """The name of the job that starts its processes again after a failure."""
    if slurm := os.environ.get("SLURM_JOB_ID"):
        return f"slurm {slurm}"
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return "" if elastic == "none" else f"torchelastic {elastic}"
