"""Which start of a run may save to a place: never two at once, and never one that was replaced.

Each start of a run is an attempt, claimed by creating ``attempts/<number>.json``, which only one
process in the world can do. While it runs, it renews ``lease.json``. Who finds a lease waits to see
whether it is renewed: no clocks are compared.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from prs_med.checkpoint.errors import SupersededError
from prs_med.storage.store import MissingFileError, StorageError, Store

RENEWAL_SECONDS = 15.0
PATIENCE_SECONDS = 60.0
"""How long a lease that is not renewed counts."""

_ATTEMPTS = "attempts/"
_LEASE = "lease.json"
_logger = logging.getLogger("prs_med.checkpoint")


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    number: int
    run: str


@dataclass(frozen=True)
class _Holder:
    """Who renews a lease."""

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
    claims = [name for name in store.names(_ATTEMPTS) if name.endswith(".json")]
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
        last = last_attempt(self._store)
        if last is not None and last != self.attempt:
            raise SupersededError(
                f"{self._store.where(_ATTEMPTS)}: attempt {last.number} of run {last.run} has "
                f"taken over from this one ({self.attempt.number}), which may not save any more"
            )

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
        while True:
            holder = _Holder(**{**asdict(self._holder), "renewals": renewals})
            try:
                self.check()
                self._store.write(_LEASE, json.dumps(asdict(holder)).encode())
            except SupersededError:
                return  # To write now would hide the one that runs.
            except StorageError as error:
                _logger.warning("the lease could not be renewed: %s", error)
            renewals += 1
            if self._done.wait(RENEWAL_SECONDS):
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
        patience: seconds after which a lease that is not renewed counts for nothing.

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
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(min(1.0, patience / 20))
        now = _read_lease(store)
        if now is None:
            return
        if now != found:
            raise SupersededError(
                f"{store.uri}: {who} is saving there; give this run another folder, or end that one"
            )


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
