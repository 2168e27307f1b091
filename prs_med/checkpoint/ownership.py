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
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from prs_med.checkpoint.errors import SupersededError
from prs_med.storage.store import MissingFileError, StorageError, Store

LOOK_SECONDS = 15.0
"""Seconds after which its holder looks again whether somebody knocks."""
PATIENCE_SECONDS = 60.0
"""How long a lease counts that is not renewed though somebody knocks."""
RELEASE_SECONDS = 10.0
"""How long the end of a run waits for a place to take its lease back."""

_ATTEMPTS = "attempts/"
_CLAIM = re.compile(rf"{_ATTEMPTS}(\d+)\.json")
_KNOCK = f"{_ATTEMPTS}knock-"
_LEASE = "lease.json"
_logger = logging.getLogger("prs_med.checkpoint")


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    number: int
    run: str
    """Identity of the run; empty where its claims cannot be read any more."""
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the claim says of the run: JSON values."""


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
    start: int = 0
    """How often the scheduler had started the job again."""
    renewals: int = 0


def last_attempt(store: Store) -> Attempt | None:
    """The newest attempt that was claimed, if any.

    A claim that is damaged, as a machine that loses power may leave it, still counts: its name has
    the number, and claims before it the run.

    Raises:
        StorageError: it cannot be found out.
    """
    return _newest(store, store.names(_ATTEMPTS))


def _newest(store: Store, names: list[str]) -> Attempt | None:
    claims = sorted(
        ((int(match[1]), name) for name in names if (match := _CLAIM.fullmatch(name))),
        reverse=True,
    )
    if not claims:
        return None
    for _, name in claims:
        try:
            about = json.loads(store.read(name))
            return Attempt(claims[0][0], about.pop("run"), about)
        except (ValueError, TypeError, KeyError, AttributeError):
            _logger.warning("%s: is damaged, and passed over", store.where(name))
    return Attempt(claims[0][0], "")


class Ownership:
    """The right to save to a place, from :func:`claim` until :meth:`release`."""

    def __init__(self, store: Store, attempt: Attempt) -> None:
        self.attempt = attempt
        self._store = store
        self._holder = _this_process(attempt.number)
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
        is_ours = last == self.attempt
        if last is not None and last.number == self.attempt.number and not last.run:
            is_ours = True  # Our own claim is damaged.
        if last is not None and not is_ours:
            raise SupersededError(
                f"{self._store.where(_ATTEMPTS)}: attempt {last.number} of run {last.run} has "
                f"taken over from this one ({self.attempt.number}), which may not save any more"
            )
        return {name for name in names if name.startswith(_KNOCK)}

    def release(self) -> None:
        """Give the place free at the end; one that does not answer in time keeps the lease until
        that expires."""
        deadline = time.monotonic() + RELEASE_SECONDS
        self._done.set()
        self._thread.join(RELEASE_SECONDS)
        if not self._thread.is_alive():
            last = threading.Thread(target=self._give_back, name="lease", daemon=True)
            last.start()
            last.join(max(0.0, deadline - time.monotonic()))
            if not last.is_alive():
                return
        _logger.warning(
            "%s: does not answer; the lease stays until it expires", self._store.where(_LEASE)
        )

    def _give_back(self) -> None:
        try:
            # Only if it is still ours.
            found = _read_lease(self._store)
            if found and found.holder and found.holder.attempt == self.attempt.number:
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
    about: Mapping[str, Any] | None = None,
) -> Ownership:
    """Start the attempt after ``after`` of ``run``.

    Args:
        store: of the place.
        after: number of the newest attempt that is known; 0 for a new run.
        say: told what is waited for.
        patience: seconds after which a lease counts for nothing that is not renewed.
        about: what the claim is to say of the run, as :attr:`Attempt.about`.

    Raises:
        SupersededError: another process saves there.
        StorageError: the place cannot be used.
    """
    _wait_for_the_lease(store, say, patience)
    attempt = Attempt(after + 1, run, about or {})
    who = asdict(_this_process(attempt.number))
    text = json.dumps({"run": run, **who, **attempt.about}).encode()
    if not store.create(f"{_ATTEMPTS}{attempt.number:06d}.json", text):
        raise SupersededError(
            f"{store.uri}: another process has just started to save there; give each run a folder "
            "of its own"
        )
    return Ownership(store, attempt)


@dataclass(frozen=True)
class _Lease:
    """A lease as it lies there."""

    text: bytes
    holder: _Holder | None
    """None where it is damaged."""

    @property
    def who(self) -> str:
        """Who holds it, for messages."""
        held = self.holder
        return f"process {held.process} on {held.host}" if held else "a process of unknown name"


def _wait_for_the_lease(store: Store, say: Callable[[str], None], patience: float) -> None:
    found = _read_lease(store)
    if found is None or (found.holder and _is_over(found.holder)):
        return
    say(
        f"{store.uri}: {found.who} was saving there; waiting up to {patience:.0f} s to see whether "
        "it still runs"
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
                    f"{store.uri}: {now.who} is saving there; give this run another folder, or end "
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


def _is_over(holder: _Holder) -> bool:
    """Whether the process that held a lease is known to have ended."""
    here = _this_process(0)
    # A scheduler ends all of a job before it starts it again. Within one start of it there may be
    # several at once.
    if here.job and holder.job == here.job and holder.start < here.start:
        return True
    if (holder.host, holder.namespace) != (here.host, here.namespace):
        return False
    try:
        status = Path(f"/proc/{holder.process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    # A process that ended stays there as a zombie until its parent asks for it.
    return status.rpartition(")")[2].split()[0] in ("Z", "X")


def _read_lease(store: Store) -> _Lease | None:
    try:
        text = store.read(_LEASE)
    except MissingFileError:
        return None
    try:
        return _Lease(text, _Holder(**json.loads(text)))
    except (ValueError, TypeError):
        return _Lease(text, None)


def _this_process(attempt: int) -> _Holder:
    return _Holder(attempt, socket.gethostname(), os.getpid(), _namespace(), *_job())


def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _job() -> tuple[str, int]:
    """The name of the job that starts its processes again after a failure, and how often it has."""
    if slurm := os.environ.get("SLURM_JOB_ID"):
        return f"slurm {slurm}", int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if elastic == "none":
        return "", 0
    return f"torchelastic {elastic}", int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
