"""A real Slurm cluster for tests: controller and two nodes on this machine, in a folder.

All its processes live in a PID namespace of their own, which the kernel ends as a whole: Slurm
detaches what it starts for jobs, so that killing the daemons alone would leave those running.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.patience import patience
from tests.ports import free_port
from tests.services.packages import Installed, install

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = (
    *("munged", "slurmctld", "slurmd"),
    *("sbatch", "scancel", "scontrol", "sinfo", "srun"),
    *("nsenter", "setpriv", "unshare"),
)
NODES = ("n1", "n2")
UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING")
"""States of jobs that have not ended, or are to be started again."""
GPUS = ("/dev/null", "/dev/zero")
"""What Slurm takes for the GPUs of each node: jobs that ask for them find none."""
START_LIMIT_S = 60.0

# linuxproc, not cgroup: cgroups cannot be had everywhere. The nodes have more CPUs than the machine
# (config_overrides), so that jobs never wait for each other's. With Slurm's own intervals a job
# that is due may wait a minute, and with its own timeouts a busy machine makes jobs fail.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
JobRequeue=1
GresTypes=gpu
KillWait=30
ReturnToService=2
MinJobAge=86400
BatchStartTimeout=60
MessageTimeout=60
TCPTimeout=30
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


class SlurmError(RuntimeError):
    """Slurm did not start, or not do what was asked; the message ends with the tail of its logs."""


def install_slurm() -> Installed:
    """Install Slurm where its programs are missing and that is allowed."""
    if os.geteuid() != 0:
        return Installed(False, "a cluster of Slurm, which runs jobs of any user, needs root")
    return install(PACKAGES, PROGRAMS)


class SlurmCluster:
    """Munge, controller and nodes in ``folder``, started by ``start``.

    They and all jobs are killed by ``stop``, when Python exits, and by the kernel when Python
    itself is killed. The kernel looks at the thread that called ``start``: it has to live as long
    as they.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._namespace: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._controller_port = 0
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

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
    def env(self) -> dict[str, str]:
        """This process's environment, with this cluster instead of any other."""
        foreign = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SCANCEL")
        ours = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return ours | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> Self:
        """Start the daemons and return when the nodes take jobs."""
        atexit.register(self.stop)
        try:
            self._start()
        except BaseException as error:
            self.stop()
            if isinstance(error, Exception):
                raise SlurmError(f"Slurm did not start: {error}\n{self._log_tails()}") from error
            raise
        return self

    def stop(self) -> None:
        """Kill the daemons and the jobs, and wait for their end. Logs and outputs stay."""
        if self._namespace is not None:
            if self._namespace.poll() is None:
                # The namespace's first process takes all others with it; unshare waits for that.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init or self._namespace.pid, signal.SIGKILL)
                self._namespace.wait()
            self._namespace, self._init = None, 0
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        atexit.unregister(self.stop)

    def sbatch(self, script: str, *options: str) -> int:
        """Submit a batch script (its text, with ``#!`` and ``#SBATCH`` lines); the job's number."""
        output = ["--output", str(self.folder / "jobs" / "%j.out"), "--open-mode", "append"]
        return int(self.ask("sbatch", "--parsable", *output, *options, stdin=script))

    def job(self, job: int | str) -> dict[str, str]:
        """What the controller knows of a job, or of a task of an array such as ``7_2``:
        ``JobState``, ``ExitCode``, ``Restarts``, ..."""
        words = self.ask("scontrol", "--oneliner", "show", "job", str(job)).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def state(self, job: int | str) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETING``, ``COMPLETED``, ``CANCELLED``, ``FAILED``..."""
        return self.job(job)["JobState"]

    def output(self, job: int) -> str:
        """What a job has written so far, in all its starts."""
        file = self.folder / "jobs" / f"{job}.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def processes(self) -> dict[int, str]:
        """All processes of the cluster and its jobs: numbers on this machine, and names."""
        found = {}
        namespace = os.readlink(f"/proc/{self._init}/ns/pid")
        for folder in Path("/proc").glob("[0-9]*"):
            # Processes may end while they are looked at.
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns" / "pid") == namespace:
                    found[int(folder.name)] = (folder / "comm").read_text().strip()
        return found

    def tasks(self, job: int) -> dict[int, int]:
        """Process numbers (of this machine) of a job's tasks that ``srun`` started, by rank."""
        found = {}
        processes = self.processes()
        for pid in processes:
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
                values = dict(variable.partition("=")[::2] for variable in variables)
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if (
                    values.get("SLURM_JOB_ID") == str(job)
                    and "SLURM_STEP_ID" in values
                    and processes.get(int(parent)) == "slurmstepd"
                ):
                    found[int(values["SLURM_PROCID"])] = pid
        return found

    def signal(self, job: int, name: str, *options: str) -> None:
        """Send a signal as ``scancel --signal`` does: to the tasks of ``srun`` unless told else."""
        self.ask("scancel", "--signal", name, *options, str(job))

    def cancel(self, job: int) -> None:
        """Let a job end: SIGTERM for everything in it, and SIGKILL after 30 seconds."""
        self.ask("scancel", str(job))

    def cancel_all(self) -> None:
        """Let all jobs end."""
        self.ask("scancel", "--user", "root")

    def requeue(self, job: int) -> None:
        """End a job as ``cancel`` does and put it into the queue again, under the same number.

        Slurm holds it back for two minutes; see ``start_now``.
        """
        self.ask("scontrol", "requeue", str(job))

    def update(self, job: int | str, **fields: str) -> None:
        """Change a job with ``scontrol update``: ``TimeLimit="1"``, ..."""
        self.ask("scontrol", "update", f"JobId={job}", *(f"{k}={v}" for k, v in fields.items()))

    def start_now(self, job: int | str, limit_s: float = 60.0) -> None:
        """Start a job that was put into the queue again, as soon as its last start has ended."""
        self.wait_for(job, lambda: self.state(job) == "PENDING", "in the queue", limit_s)
        # Nodes refuse a job in the second in which they ended it ("already killed"), and then it
        # hangs. It is for them that Slurm holds it back.
        time.sleep(2)
        self.update(job, StartTime="now")

    def wait_until_ended(self, job: int | str, limit_s: float = 200.0) -> str:
        """Wait until no process of a job is left and it is not queued again; its last state."""
        self.wait_for(job, lambda: self.state(job) not in UNDER_WAY, "over", limit_s)
        return self.state(job)

    def wait_for(
        self, job: int | str, condition: Callable[[], object], what: str, limit_s: float = 200.0
    ) -> None:
        """Wait until something is true; ``what`` says of the job what it then is."""
        deadline = time.monotonic() + patience(limit_s)
        while not condition():
            if time.monotonic() > deadline:
                raise SlurmError(
                    f"job {job} is not {what} after {patience(limit_s):g} s: {self.job(job)}\n"
                    f"{self.output(job)[-3000:]}\n{self._log_tails()}"
                )
            time.sleep(0.1)

    def ask(self, program: str, *arguments: str, stdin: str = "") -> str:
        """Run one of Slurm's commands; its output."""
        done = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patience(START_LIMIT_S),
            check=False,
        )
        if done.returncode != 0:
            raise SlurmError(
                f"{program} {' '.join(arguments)}\nended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}\n{self._log_tails()}"
            )
        return done.stdout

    def _start(self) -> None:
        for name in ("state", "jobs", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self._controller_port = free_port()
        nodes = [
            f"NodeName={n} NodeAddr=127.0.0.1 Port={free_port()} CPUs=64 Gres=gpu:{len(GPUS)}"
            for n in NODES
        ]
        configuration = CONFIGURATION.format(
            host=socket.gethostname(),
            folder=self.folder,
            controller_port=self._controller_port,
            nodes="\n".join(nodes),
        )
        (self.folder / "slurm.conf").write_text(configuration)
        gpus = f"AutoDetect=off\nName=gpu File={','.join(GPUS)}\n"
        (self.folder / "gres.conf").write_text(gpus)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._open_namespace()
        files = ("key", "socket", "pid", "log", "seed")
        places = [f"--{file}-file={self.folder}/munge.{file}" for file in files if file != "socket"]
        # --force: the folder is not open to all users, and need not be.
        munge = ["--foreground", "--force", f"--socket={self.folder}/munge.socket", *places]
        self._daemon("munged", "munged", *munge)
        self._wait_for_start("no socket of munge", (self.folder / "munge.socket").exists)
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self._daemon(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        self._wait_for_start("the nodes are not ready", self._nodes_are_ready)

    def _open_namespace(self) -> None:
        # Inside, the nodes' names can be looked up, as on any cluster.
        hosts = self.folder / "hosts"
        hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {' '.join(NODES)}\n")
        with (self.folder / "namespace.out").open("wb") as output:
            self._namespace = subprocess.Popen(
                [
                    # Whatever kills Python kills unshare, and that kills the namespace.
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
                    *(
                        "sh",
                        "-c",
                        'mount --bind "$1" /etc/hosts && touch "$2" && shift 2 && exec "$@"',
                    ),
                    *("sh", str(hosts), str(self.folder / "open")),
                    *("env", "--ignore-signal=CHLD", "sleep", "infinity"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_for_start("no namespace", (self.folder / "open").exists)
        children = Path(f"/proc/{self._namespace.pid}/task/{self._namespace.pid}/children")
        self._init = int(children.read_text())

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as output:
            self._daemons[name] = subprocess.Popen(
                ["nsenter", f"--target={self._init}", "--pid", "--mount", "--", *command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _nodes_are_ready(self) -> bool:
        # sinfo waits a minute for a controller that is not there (MessageTimeout).
        with contextlib.suppress(OSError, SlurmError):
            socket.create_connection(("127.0.0.1", self._controller_port)).close()
            states = self.ask("sinfo", "--noheader", "--Node", "--format", "%t").split()
            return states == ["idle"] * len(NODES)
        return False

    def _wait_for_start(self, failure: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + patience(START_LIMIT_S)
        while not condition():
            started = {"namespace": self._namespace, **self._daemons}
            for name, process in started.items():
                if process is not None and process.poll() is not None:
                    raise ChildProcessError(f"{name} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{failure} in {patience(START_LIMIT_S):g} s")
            time.sleep(0.05)

    def _log_tails(self, lines: int = 15) -> str:
        logs = [*sorted(self.folder.glob("*.out")), *sorted(self.folder.glob("*.log"))]
        tails = []
        for log in logs:
            if tail := log.read_text(errors="replace").splitlines()[-lines:]:
                tails.append("\n".join([f"--- {log}", *tail]))
        return "\n".join(tails)
