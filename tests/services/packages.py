"""Installing what a service of the tests needs from Debian's packages, where that is allowed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.patience import patience
from tests.unavailable import unavailable

POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Installed:
    """Whether programs are there, and if not, why. True in a condition when they are."""

    done: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.done


def need(installed: Installed, otherwise: str) -> None:
    """Go on only where it is installed; ``otherwise`` says what a test then lacks."""
    if not installed:
        unavailable(f"{otherwise}: {installed.reason}")


def missing(programs: Sequence[str]) -> list[str]:
    """Those programs that are not on the PATH."""
    return [name for name in programs if shutil.which(name) is None]


def install(packages: Sequence[str], programs: Sequence[str]) -> Installed:
    """Install packages with apt-get where programs are missing and that is allowed."""
    if not missing(programs):
        return Installed(True)
    if shutil.which("apt-get") is None:
        return Installed(False, f"no {', '.join(missing(programs))} and no apt-get to install it")
    as_root: list[str] = []
    if os.geteuid() != 0:
        as_root = ["sudo", "-n"]
        if shutil.which("sudo") is None or _failure([*as_root, "true"], 10):
            return Installed(False, f"{', '.join(packages)}: installing them needs root")
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    apt += ["-o", "DPkg::Lock::Timeout=120", "-q"]
    with _alone(), no_services_started(as_root):
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            if failure := _failure([*apt, *command], 600):
                return Installed(False, f"apt-get {command[0]}: {failure}")
    if still := missing(programs):
        return Installed(False, f"the packages came without {', '.join(still)}")
    return Installed(True)


@contextmanager
def _alone() -> Iterator[None]:
    """A machine has one package manager, and several test processes may want it."""
    with (Path(tempfile.gettempdir()) / "prs-med-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def no_services_started(as_root: list[str]) -> Iterator[None]:
    """Keep packages that are installed meanwhile from starting their daemons as services.

    Debian's packages ask a program of this name for permission, under systemd and without.

    Args:
        as_root: words before a command that make it run as root.
    """
    if POLICY.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as refusal:
        refusal.write("#!/bin/sh\nexit 101\n")
        refusal.flush()
        _failure([*as_root, "install", "-m", "755", refusal.name, str(POLICY)], 10)
    try:
        yield
    finally:
        _failure([*as_root, "rm", "-f", str(POLICY)], 10)


def _failure(command: list[str], timeout_s: float) -> str:
    """The last lines of a command that failed; empty when it did not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=patience(timeout_s), check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return "\n".join((done.stdout + done.stderr).splitlines()[-5:]) or f"exit {done.returncode}"
