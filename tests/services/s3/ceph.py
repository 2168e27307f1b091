"""A real S3 server for tests: Ceph's gateway on loopback, its objects in memory.

Stand-ins for S3 agree with their own idea of the protocol; a real server signs, checks conditions
and joins parts by itself. One monitor, one OSD and one gateway start in about three seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import boto3
import botocore.session
from botocore.config import Config

from tests.patience import patience
from tests.ports import free_port
from tests.services.packages import Installed, install

PACKAGES = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "ceph-common")
PROGRAMS = (
    *("ceph", "ceph-authtool", "ceph-mon", "ceph-osd"),
    *("monmaptool", "radosgw", "radosgw-admin"),
)
REGION = "us-east-1"
START_LIMIT_S = 90.0

# Every daemon finds its keys in one file, so that the monitor knows them all from its first second
# and nothing has to be asked of it. A short proposal interval makes each new pool take 0.05 s
# instead of 1 s. Without tcp_nodelay each small answer waits 40 ms for an acknowledgement.
CONFIGURATION = """\
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{mon_port}]
public addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
admin socket =
run dir = {folder}
crash dir = {folder}
mon data = {folder}/mon
mon allow pool size one = true
paxos propose interval = 0.05
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush initial weight = 1
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port} tcp_nodelay=1
rgw rados pool pg num min = 1
rgw thread pool size = 64
rgw gc obj min wait = 60
rgw gc processor period = 60
"""

KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


class CephError(RuntimeError):
    """Ceph did not start; the message ends with the tail of its logs."""


def install_ceph() -> Installed:
    """Install Ceph where its programs are missing and that is allowed."""
    return install(PACKAGES, PROGRAMS)


class CephGateway:
    """Monitor, OSD (objects in memory) and S3 gateway in ``folder``, started by ``start``.

    The daemons are killed by ``stop``, when Python exits, and by the kernel when Python itself is
    killed. The kernel looks at the thread that called ``start``: it has to live as long as they.
    """

    access_key = "PRSMEDTESTS"
    secret_key = "a-secret-for-tests-only"

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.endpoint = ""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._session_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process number of every daemon that was started and not stopped."""
        return {name: daemon.pid for name, daemon in self._daemons.items()}

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment so that boto3 uses this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, endpoint: str | None = None, config: Config | None = None) -> Any:
        """A boto3 S3 client of this server (or of a proxy before it), whatever the environment."""
        config = Config(proxies={}).merge(config or Config())
        with self._session_lock:
            return self._session.client("s3", endpoint_url=endpoint or self.endpoint, config=config)

    @functools.cached_property
    def _session(self) -> boto3.session.Session:
        # One for all clients: each session reads botocore's description of S3 anew, 0.3 s.
        nothing_else = {
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
        }
        return boto3.session.Session(
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            botocore_session=botocore.session.Session(session_vars=nothing_else),
        )

    def start(self) -> Self:
        """Start the daemons and return when objects can be written."""
        atexit.register(self.stop)
        try:
            self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, Exception):
                raise CephError(f"Ceph did not start: {error}\n{self._log_tails()}") from error
            raise
        return self

    def stop(self) -> None:
        """Kill every daemon with its process group and wait for its end. The logs stay."""
        for daemon in self._daemons.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        atexit.unregister(self.stop)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        mon_port, s3_port = free_port(), free_port()
        configuration = CONFIGURATION.format(
            fsid=fsid, folder=self.folder, mon_port=mon_port, s3_port=s3_port
        )
        (self.folder / "ceph.conf").write_text(configuration)
        self._write_keys()
        address = f"[v2:127.0.0.1:{mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._daemon("ceph-mon", "-f", "-i", "a")
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
        (self.folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-f", "-i", "0")
        user = ["--uid", "tests", "--display-name", "tests"]
        keys = ["--access-key", self.access_key, "--secret-key", self.secret_key]
        self._run("radosgw-admin", "user", "create", *user, *keys)
        self._daemon("radosgw", "-f", "-n", "client.admin")
        self.endpoint = f"http://127.0.0.1:{s3_port}"
        self._wait_for_answer()
        self._make_pools()

    def _write_keys(self) -> None:
        create = ["--create-keyring"]
        for name, capabilities in KEYS.items():
            allowed = [word for pair in capabilities.items() for word in ("--cap", *pair)]
            self._run("ceph-authtool", "keyring", *create, "--gen-key", "-n", name, *allowed)
            create = []

    def _wait_for_answer(self) -> None:
        opener = build_opener(ProxyHandler({}))
        deadline = time.monotonic() + patience(START_LIMIT_S)
        while True:
            try:
                opener.open(self.endpoint, timeout=patience(10)).close()
                return
            except (OSError, URLError) as error:
                self._check_daemons()
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"no answer from S3 in {patience(START_LIMIT_S):g} s"
                    ) from error
            time.sleep(0.05)

    def _make_pools(self) -> None:
        """Write once: the gateway makes its pools on first use, which would slow the first test."""
        client, name = self.client(), {"Bucket": "first-use"}
        client.create_bucket(**name)
        client.put_object(**name, Key="whole", Body=b"1")
        client.delete_object(**name, Key="whole")
        upload = client.create_multipart_upload(**name, Key="parts")["UploadId"]
        client.abort_multipart_upload(**name, Key="parts", UploadId=upload)
        client.delete_bucket(**name)

    def _check_daemons(self) -> None:
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise ChildProcessError(f"{name} ended with {daemon.returncode}")

    def _command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        # The kernel kills the program when Python dies without a chance to do so.
        setpriv = shutil.which("setpriv")
        bound = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        return [*bound, program, *arguments]

    def _environment(self) -> dict[str, str]:
        foreign = ("CEPH_", "PYTHON")  # the `ceph` program runs in the system's Python
        ours = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return ours | {"CEPH_CONF": str(self.folder / "ceph.conf")}

    def _run(self, program: str, *arguments: str) -> None:
        self._check_daemons()
        done = subprocess.run(
            self._command(program, arguments),
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience(START_LIMIT_S),
            check=False,
        )
        if done.returncode != 0:
            command = " ".join([program, *arguments])
            raise ChildProcessError(f"{command}\nended with {done.returncode}:\n{done.stdout}")

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as output:
            self._daemons[program] = subprocess.Popen(
                self._command(program, arguments),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log_tails(self, lines: int = 15) -> str:
        logs = [*sorted(self.folder.glob("*.out")), *sorted(self.folder.glob("*.log"))]
        tails = []
        for log in logs:
            if tail := log.read_text(errors="replace").splitlines()[-lines:]:
                tails.append("\n".join([f"--- {log}", *tail]))
        return "\n".join(tails)
