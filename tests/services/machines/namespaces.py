"""Two machines on this one: networks, names, processes and ssh of their own, one wire between them.

Files and users are those of this machine. Nothing of a developer's ssh is used or changed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import patience
from tests.services.packages import Installed, install

PACKAGES = ("openssh-server", "openssh-client", "pdsh", "iproute2")
PROGRAMS = (
    *("sshd", "ssh", "ssh-keygen", "pdsh", "ip"),
    *("hostname", "mount", "nsenter", "setpriv", "unshare"),
)
NAMES = ("node1", "node2")
INTERFACE = "net0"
START_LIMIT_S = 30.0

# As Debian and Ubuntu have it: a machine finds itself under its own name at 127.0.1.1, where no
# other machine can reach it.
HOSTS = "127.0.0.1 localhost\n127.0.1.1 {name}\n{others}\n"

SSH = """\
Host node*
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    GlobalKnownHostsFile {folder}/known_hosts
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""
SSHD = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
"""


def install_machines() -> Installed:
    """Install what they need where that is missing and allowed."""
    if os.geteuid() != 0:
        return Installed(False, "machines with a network of their own need root")
    installed = install(PACKAGES, PROGRAMS)
    if not installed:
        return installed
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "end0", "type", "veth", "peer", "name", "end1"],
        capture_output=True,
        text=True,
        check=False,
    )
    return Installed(tried.returncode == 0, tried.stderr.strip())


def address(name: str) -> str:
    """Where a machine is reached by the others."""
    return f"10.99.99.{NAMES.index(name) + 1}"


class Machine:
    """One of them. Whatever kills this process kills it, with all that runs there."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        hosts = folder / f"hosts-{name}"
        others = "\n".join(f"{address(other)} {other}" for other in NAMES if other != name)
        hosts.write_text(HOSTS.format(name=name, others=others))
        started = folder / f"started-{name}"
        begin = (
            f"hostname {name} && mount --bind {hosts} /etc/hosts"
            f" && mount --bind {folder}/ssh_config /etc/ssh/ssh_config"
            f" && touch {started} && exec env --ignore-signal=CHLD sleep infinity"
        )
        self._unshare = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--", "unshare", "--kill-child", "--fork"),
                *("--pid", "--mount-proc", "--net", "--uts", "--", "sh", "-c", begin),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait_until_exists(started, self._unshare)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self.first_process = int(children.read_text())
        # The wire goes with the network of either end, and a machine keeps its own when another
        # one loses its power.
        self._network = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *self._enter(), "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
        )

    def start(
        self, command: Sequence[str], cwd: Path, environment: dict[str, str]
    ) -> subprocess.Popen[str]:
        """Start a program there."""
        return subprocess.Popen(
            [*self._enter("--pid"), "env", f"--chdir={cwd}", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wire(self, peer: Machine | None = None) -> None:
        """Give it its address, and a wire to another machine."""
        if peer is not None:
            ends = ["type", "veth", "peer", "name", INTERFACE, "netns", str(peer.first_process)]
            self._ip("link", "add", INTERFACE, *ends)
        self._ip("address", "add", f"{address(self.name)}/24", "dev", INTERFACE)
        for interface in ("lo", INTERFACE):
            self._ip("link", "set", interface, "up")

    def kill(self) -> None:
        """End it with all that runs there, as a power cut does: without a word to the others."""
        if self._unshare.poll() is None:
            # Its wire may be gone, with the network at the other end.
            self._ip("link", "set", INTERFACE, "down", check=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.first_process, signal.SIGKILL)
            self._unshare.wait()

    def remove(self) -> None:
        """End it with its network."""
        self.kill()
        self._network.kill()
        self._network.wait()

    def _enter(self, *more: str) -> list[str]:
        which = ["--net", "--uts", "--mount", *more]
        return ["nsenter", f"--target={self.first_process}", *which, "--"]

    def _ip(self, *words: str, check: bool = True) -> None:
        # Not in its process namespace: the peer is named by a number of this machine.
        enter = ["nsenter", f"--target={self.first_process}", "--net", "--"]
        subprocess.run([*enter, "ip", *words], check=check)


class Machines:
    """Both, with ssh from each to each without a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.machines: list[Machine] = []
        self._servers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        atexit.register(self.stop)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove both."""
        for machine in self.machines:
            machine.remove()
        for server in self._servers:
            server.wait()
        self.machines, self._servers = [], []
        atexit.unregister(self.stop)

    def _start(self) -> None:
        for key in ("host_key", "user_key"):
            quiet = ["-q", "-t", "ed25519", "-N", "", "-C", "test"]
            subprocess.run(["ssh-keygen", *quiet, "-f", str(self.folder / key)], check=True)
        public = (self.folder / "host_key.pub").read_text()
        known = "".join(f"{name},{address(name)} {public}" for name in NAMES)
        (self.folder / "known_hosts").write_text(known)
        (self.folder / "ssh_config").write_text(SSH.format(folder=self.folder))
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder))
        # Where sshd confines itself; Debian makes it when the service starts.
        Path("/run/sshd").mkdir(exist_ok=True)
        self.machines = [Machine(name, self.folder) for name in NAMES]
        first, second = self.machines
        first.wire(second)
        second.wire()
        for machine in self.machines:
            sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._servers.append(machine.start(sshd, self.folder, dict(os.environ)))


def _wait_until_exists(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + patience(START_LIMIT_S)
    while not file.exists():
        if process.poll() is not None:
            raise ChildProcessError(f"{process.args} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {file} in {patience(START_LIMIT_S):g} s")
        time.sleep(0.02)
