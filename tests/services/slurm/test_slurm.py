"""Training started by ``srun`` on a real Slurm: who is who, how it ends, how it goes on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prs_med.checkpoint.directory_place import DirectoryPlace
from prs_med.srun import first_host
from tests.conftest import Small
from tests.distributed.launcher import ROOT
from tests.distributed.live_run import (
    GO_ON_LATER,
    assert_saved,
    lines,
    program,
    wait_for_the_end_of,
)
from tests.programs import launchers
from tests.run_folder import loss_curve
from tests.services.slurm.cluster import SlurmCluster, SlurmError

SAVE_OFTEN = ("--max_steps", "100000", "--log_every", "1", "--save_every_steps", "4")


@pytest.fixture(autouse=True)
def no_job_left(slurm: SlurmCluster) -> Iterator[None]:
    """Training that a failed test leaves would take the cores from the tests behind it."""
    yield
    slurm.cancel_all()


def batch_script(
    small: Small, save_dir: Path, *more: str, starts: int = 1, afresh: bool = False
) -> str:
    """Train on two nodes, one process each, so many times one after the other.

    Args:
        afresh: with interpreters that start from nothing; see ``tests.fork_server``.
    """
    python = str(launchers(afresh) / "python")
    train = shlex.join([python, *program(small, save_dir, *SAVE_OFTEN, *more)])
    return "\n".join(
        [
            "#!/bin/bash",
            "#SBATCH --nodes=2 --ntasks-per-node=1 --signal=USR1@120 --time=60",
            f"cd {shlex.quote(str(ROOT))}",
            "export OMP_NUM_THREADS=1",
            # Without it bash would die of SIGTERM at once; so it waits for srun.
            "trap 'echo asked to end' TERM",
            *[f"srun --kill-on-bad-exit=1 {train}", 'echo "exit status $?"'] * starts,
            "",
        ]
    )


def exit_statuses(output: str) -> list[int]:
    """What ``srun`` ended with, as the batch script saw it."""
    return [int(status) for status in re.findall(r"^exit status (\d+)$", output, re.MULTILINE)]


def wait_while_running(
    slurm: SlurmCluster, job: int, condition: Callable[[], object], what: str
) -> None:
    """Wait for something that a job does."""

    def met() -> object:
        assert slurm.state(job) in ("PENDING", "RUNNING"), slurm.output(job)[-3000:]
        return condition()

    slurm.wait_for(job, met, what)


def near_its_end(slurm: SlurmCluster, job: int) -> None:
    """Change a job's time limit so that less than two minutes are left."""
    hours, minutes, _ = map(int, slurm.job(job)["RunTime"].split(":"))
    slurm.update(job, TimeLimit=str(60 * hours + minutes + 2))


ASKED_BY: dict[str, tuple[str, Callable[[SlurmCluster, int], None]]] = {
    "signal": ("SIGUSR1", lambda slurm, job: slurm.signal(job, "USR1")),
    "scancel": ("SIGTERM", lambda slurm, job: slurm.cancel(job)),
    "time limit": ("SIGUSR1", near_its_end),
}


@pytest.mark.distributed
@pytest.mark.parametrize("case", ASKED_BY)
def test_it_saves_and_can_go_on(
    slurm: SlurmCluster, small: Small, tmp_path: Path, case: str
) -> None:
    job = slurm.sbatch(batch_script(small, tmp_path, afresh=case == "signal"))
    wait_while_running(slurm, job, lambda: lines(tmp_path), "training")
    assert sorted(slurm.tasks(job)) == [0, 1]
    reason, ask = ASKED_BY[case]
    ask(slurm, job)
    state = slurm.wait_until_ended(job)
    output = slurm.output(job)
    assert_saved(tmp_path, reason, output)
    assert exit_statuses(output) == [GO_ON_LATER], output[-3000:]
    assert output.count(f"Exited with exit code {GO_ON_LATER}") == 2
    assert state == ("CANCELLED" if case == "scancel" else "COMPLETED")


@pytest.mark.distributed
def test_a_killed_rank_ends_the_other_and_the_same_job_goes_on(
    slurm: SlurmCluster, small: Small, tmp_path: Path
) -> None:
    place = DirectoryPlace(tmp_path / "checkpoints")

    def saved(attempt: int) -> int:
        """The last step saved by a start of the run."""
        return max((c.step for c in place.checkpoints() if c.attempt == attempt), default=0)

    job = slurm.sbatch(batch_script(small, tmp_path, "--keep_last", "100000", starts=2))
    wait_while_running(slurm, job, lambda: saved(1) and lines(tmp_path) > 4, "saving")
    first = slurm.tasks(job)
    os.kill(first[1], signal.SIGKILL)
    wait_while_running(slurm, job, lambda: saved(2), "saving again")
    assert not {*first.values()} & {*slurm.tasks(job).values()}
    slurm.signal(job, "USR1")
    slurm.wait_until_ended(job)

    output = slurm.output(job)
    assert_saved(tmp_path, "SIGUSR1", output)
    failed, stopped = exit_statuses(output)
    assert failed not in (0, GO_ON_LATER)
    assert stopped == GO_ON_LATER
    assert re.findall(r"going on after step (\d+), from (\S+)", output) == [
        (f"{saved(1)}", f"step-{saved(1):08d}-01")
    ]
    # Nothing is left of the steps that were lost.
    assert [step for step, *_ in loss_curve(tmp_path)] == list(range(1, saved(2) + 1))
    # The job is the same: nobody has to find out whether the old process still saves.
    assert "waiting" not in output


def test_each_task_finds_itself_and_the_others(slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "group.py").write_text(
        "import json, os, sys\n"
        "from prs_med.srun import launched_by_srun\n"
        "with open(sys.argv[1] + os.environ['SLURM_PROCID'], 'w') as file:\n"
        "    json.dump(launched_by_srun(os.environ, gpus=0), file)\n"
    )
    program = shlex.join([sys.executable, str(tmp_path / "group.py")])
    script = f"""\
#!/bin/bash
#SBATCH --nodes=2 --ntasks=3
cd {shlex.quote(str(ROOT))}
export PYTHONPATH={shlex.quote(str(ROOT))}
{program} {tmp_path}/batch
srun {program} {tmp_path}/all
srun --nodes=1 --ntasks=2 --overcommit --relative=1 {program} {tmp_path}/second
srun --nodes=1 --ntasks=1 {program} {tmp_path}/one
"""
    job = slurm.sbatch(script)
    assert slurm.wait_until_ended(job) == "COMPLETED", slurm.output(job)
    found = {
        file.name: json.loads(file.read_text())
        for file in tmp_path.iterdir()
        if file.suffix != ".py"
    }
    assert found.pop("batch0") == found.pop("one0") == {}
    assert {name: task.pop("RANK") for name, task in found.items()} == {
        **{f"all{rank}": str(rank) for rank in range(3)},
        **{f"second{rank}": str(rank) for rank in range(2)},
    }
    ports = {name: task.pop("MASTER_PORT") for name, task in found.items()}
    assert ports["all0"] == ports["all1"] == ports["all2"]
    assert ports["second0"] == ports["second1"] != ports["all0"]
    keys = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert found == {
        "all0": dict(zip(keys, ("3", "0", "2", "n1"), strict=True)),
        "all1": dict(zip(keys, ("3", "1", "2", "n1"), strict=True)),
        "all2": dict(zip(keys, ("3", "0", "1", "n1"), strict=True)),
        "second0": dict(zip(keys, ("2", "0", "2", "n2"), strict=True)),
        "second1": dict(zip(keys, ("2", "1", "2", "n2"), strict=True)),
    }


@pytest.mark.parametrize(
    "hosts", ["n1", "b,a", "gpu-[07-12,15],login", "n[3,5-7],m[1-2]", "rack[2-3]n[08-11]", "x[010]"]
)
def test_the_first_host_is_that_of_slurm(slurm: SlurmCluster, hosts: str) -> None:
    assert first_host(hosts) == slurm.ask("scontrol", "show", "hostnames", hosts).split()[0]


def test_a_job_put_into_the_queue_again_starts_again(slurm: SlurmCluster) -> None:
    script = "#!/bin/bash\n#SBATCH --nodes=2 --ntasks=2\nsrun bash -c 'echo here; exec sleep 600'\n"
    job = slurm.sbatch(script)
    slurm.wait_for(job, lambda: slurm.output(job).count("here") == 2, "running")
    slurm.requeue(job)
    slurm.start_now(job)
    slurm.wait_for(job, lambda: slurm.output(job).count("here") == 4, "running again")
    assert slurm.job(job)["Restarts"] == "1"
    slurm.cancel(job)
    assert slurm.wait_until_ended(job) == "CANCELLED"


def test_the_cluster_and_its_jobs_end_with_a_killed_process(tmp_path: Path) -> None:
    starter = (
        "import json, sys, time, pathlib\n"
        "from tests.services.slurm.cluster import SlurmCluster\n"
        "slurm = SlurmCluster(pathlib.Path(sys.argv[1])).start()\n"
        "job = slurm.sbatch('#!/bin/bash\\nsrun sleep 600\\n')\n"
        "slurm.wait_for(job, lambda: slurm.tasks(job), 'running')\n"
        "print(json.dumps(slurm.processes()), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        running = json.loads(process.stdout.readline())
        process.kill()
    assert {"munged", "slurmctld", "slurmd", "srun", "sleep"} <= {*running.values()}
    wait_for_the_end_of([int(pid) for pid in running])


def test_a_failed_start_shows_the_logs_and_leaves_nothing(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "slurmctld"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    with pytest.raises(
        SlurmError, match=r"(?s)slurmctld ended with 3.*slurmctld\.out\nno luck today"
    ):
        SlurmCluster(tmp_path / "slurm").start()
    ours = str(tmp_path).encode()
    assert not [c for c in Path("/proc").glob("[0-9]*/cmdline") if ours in c.read_bytes()]
