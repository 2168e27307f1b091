"""The batch scripts of launch/slurm on a real Slurm: many nodes, requeueing, arrays, containers."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import Small
from tests.distributed.launcher import ROOT
from tests.distributed.live_run import GO_ON_LATER, lines
from tests.fork_server.programs import process_of
from tests.programs import launchers
from tests.run_folder import loss_curve, newest_checkpoint, rows
from tests.services.slurm.cluster import NODES, UNDER_WAY, SlurmCluster
from tests.short_training import short

SCRIPTS = ROOT / "launch" / "slurm"
STEPS = 30


class Submitted:
    """A job by one of the scripts."""

    def __init__(
        self,
        slurm: SlurmCluster,
        folder: Path,
        script: str,
        program: Sequence[str],
        options: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """
        Args:
            folder: where the output of the processes goes.
            program: options of the program.
            options: those of sbatch.
            environment: what the script finds there.
        """
        self.slurm = slurm
        self.logs = folder / "logs"
        python = str(launchers() / "python")
        variables = {"LOGS": str(self.logs), "PYTHON": python, "OMP_NUM_THREADS": "1"}
        export = ",".join(f"{k}={v}" for k, v in {**variables, **environment}.items())
        where = ("--chdir", str(ROOT), f"--export=ALL,{export}")
        self.number: int = slurm.sbatch("", *where, *options, str(SCRIPTS / script), *program)
        self.name = str(self.number)

    @property
    def output(self) -> str:
        """What the script has said, in all starts."""
        return self.slurm.output(self.number)

    def log(self, rank: int) -> str:
        """What a process has said, in all starts."""
        return (self.logs / f"{self.number}-{rank}.log").read_text(errors="replace")

    def logs_with(self, word: str) -> int:
        """In how many processes' logs a word stands."""
        return sum(word in log.read_text(errors="replace") for log in self.logs.glob("*-*.log"))

    @property
    def restarts(self) -> int:
        """How often it was put into the queue again."""
        return int(self.slurm.job(self.name)["Restarts"])

    @property
    def exit_status(self) -> int:
        """What the script ended with."""
        return int(self.slurm.job(self.name)["ExitCode"].partition(":")[0])

    def wait_while_running(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that it does."""

        def met() -> object:
            assert self.slurm.state(self.name) in UNDER_WAY, self.everything()
            return condition()

        self.slurm.wait_for(self.name, met, what)

    def wait_for_start(self, number: int) -> None:
        """Wait until the script runs for the so many-th time."""
        start = f": start {number} on "
        self.slurm.wait_for(self.name, lambda: start in self.output, f"at its start {number}")

    def start_again(self) -> None:
        """Wait until it is in the queue again, and start it without Slurm's two minutes."""
        begun = self.wait_until_in_the_queue()
        self.slurm.start_now(self.name)
        self.wait_for_start(begun + 1)

    def wait_until_in_the_queue(self) -> int:
        """Wait until it is to be started again; how often it was started."""
        self.wait_for_start(1)
        begun = self.output.count(": start ")

        def waiting() -> bool:
            state = self.slurm.state(self.name)
            assert state in UNDER_WAY, f"{state}\n{self.everything()}"
            return state == "PENDING"

        self.slurm.wait_for(self.name, waiting, "in the queue again")
        return begun

    def tasks(self, count: int) -> dict[str, int]:
        """Of an array: the numbers of its tasks as jobs, by their names such as ``7_1``."""
        found: dict[str, int] = {}

        def all_begun() -> bool:
            jobs = self.slurm.ask("scontrol", "--oneliner", "show", "job", str(self.number))
            for number, array, task in re.findall(
                r"JobId=(\d+) ArrayJobId=(\d+) ArrayTaskId=(\d+) ", jobs
            ):
                found[f"{array}_{task}"] = int(number)
            return len(found) == count

        self.slurm.wait_for(self.name, all_begun, "begun, with all tasks")
        return dict(sorted(found.items()))

    def end(self) -> str:
        """Its last state."""
        return self.slurm.wait_until_ended(self.name)

    def everything(self) -> str:
        """Its outputs, for a message."""
        logs = [path.read_text(errors="replace")[-2000:] for path in self.logs.glob("*.log")]
        return "\n".join([self.output, *logs])


@pytest.fixture
def submit(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Callable[..., Submitted]]:
    """Submit a script with its program's options; at the end no job is left."""
    yield lambda *arguments, **more: Submitted(slurm, tmp_path, *arguments, **more)
    slurm.cancel_all()


def training(small: Small, save_dir: Path, *more: str, steps: int = STEPS) -> list[str]:
    """Options of ``launch/train.py`` for a run that shows every step."""
    return short(
        *(small.arguments(), "--save_dir", str(save_dir), "--max_steps", str(steps)),
        *("--save_every_steps", "4", *more),
    )


def pretend(folder: Path, what: str) -> str:
    """A stand-in for Python: ``what`` in bash instead of the training program."""
    stand_in = folder / "python"
    stand_in.write_text(
        "#!/bin/bash\n"
        f'[ "$1" != launch/slurm/standing.py ] || exec {shlex.quote(sys.executable)} "$@"\n'
        f'echo "process $SLURM_PROCID of $SLURM_STEP_NUM_TASKS: $*"\n{what}\n'
    )
    stand_in.chmod(0o755)
    return str(stand_in)


@pytest.mark.distributed
def test_disturbed_again_and_again_it_ends_as_if_undisturbed(
    slurm: SlurmCluster, small: Small, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    quiet_run, run = tmp_path / "undisturbed", tmp_path / "disturbed"
    two_nodes = ["--nodes=2", "--time=60"]
    quiet = submit("train.sbatch", training(small, quiet_run), two_nodes)
    assert quiet.end() == "COMPLETED", quiet.everything()
    assert quiet.output.rstrip().endswith("complete")
    assert "training" in quiet.log(0)
    assert (quiet.logs / f"{quiet.number}-1.log").exists()

    job = submit("train.sbatch", training(small, run), two_nodes)
    job.wait_while_running(lambda: lines(run) >= 5, "training")
    os.kill(second_process(slurm, job.number), signal.SIGKILL)
    job.start_again()
    job.wait_while_running(lambda: lines(run) >= 10, "training again")
    hold(slurm, job.number)
    slurm.requeue(job.number)  # which sends SIGCONT before SIGTERM
    job.start_again()
    job.wait_while_running(lambda: lines(run) >= 20, "training a third time")
    held = hold(slurm, job.number)
    near_its_end(slurm, job.number)
    job.wait_while_running(lambda: was_sent(held, signal.SIGUSR1), "asked to end")
    with contextlib.suppress(ProcessLookupError):
        os.kill(held, signal.SIGCONT)
    job.wait_until_in_the_queue()
    slurm.update(job.number, TimeLimit="60")
    job.start_again()
    assert job.end() == "COMPLETED", job.everything()

    assert loss_curve(run) == loss_curve(quiet_run)
    assert len(loss_curve(run)) == STEPS
    assert job.restarts == 3
    ends = re.findall(r"ended with (\d+)(; put into| after SIGTERM)?", job.output)
    assert ends == [("137", "; put into"), ("75", " after SIGTERM"), ("75", "; put into")]
    asked_by = re.findall(r"saved after (\w+);", job.log(0) + job.log(1))
    assert set(asked_by) == {"SIGTERM", "SIGUSR1"}
    # Bit for bit: as many attempts as starts, and the last one has the last step.
    last = newest_checkpoint(run).name
    assert (last.attempt, last.step) == (4, STEPS)


def second_process(slurm: SlurmCluster, job: int) -> int:
    """The number of a job's process of rank 1."""
    return process_of(slurm.tasks(job)[1])


def hold(slurm: SlurmCluster, job: int) -> int:
    """Stop one process of a job, so that the others wait for it; its number."""
    held = second_process(slurm, job)
    os.kill(held, signal.SIGSTOP)
    return held


def was_sent(process: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a stopped process, or has ended it: Slurm may send SIGCONT too."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    pending = re.findall(r"(?:Sig|Shd)Pnd:\s*(\w+)", status)
    return any(int(mask, 16) & 1 << (number - 1) for mask in pending)


def near_its_end(slurm: SlurmCluster, job: int) -> None:
    """Change a job's time limit so that less than two minutes are left."""
    hours, minutes, _ = map(int, slurm.job(job)["RunTime"].split(":"))
    slurm.update(job, TimeLimit=str(60 * hours + minutes + 2))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--batch_sise", "4"], "--batch_sise: no such setting; did you mean --batch_size?"),
        (["--vlm_path", "/no/such/model"], "error: --vlm_path /no/such/model: no such folder"),
    ],
)
def test_a_mistake_ends_the_job(
    small: Small,
    tmp_path: Path,
    submit: Callable[..., Submitted],
    wrong: list[str],
    message: str,
) -> None:
    job = submit("train.sbatch", training(small, tmp_path / "run", *wrong), ["--nodes=2"])
    assert job.end() == "FAILED", job.everything()
    assert (job.exit_status, job.restarts) == (2, 0)
    assert message in job.everything()


def test_a_crash_loop_ends(tmp_path: Path, submit: Callable[..., Submitted]) -> None:
    # The second start saves something, and the third goes on from there.
    crash = """
mkdir -p "$3/checkpoints"
[ "${SLURM_RESTART_COUNT:-0}" != 1 ] || (cd "$3/checkpoints" && mkdir -p step-00000040-02 &&
    touch step-00000040-02/manifest.json)
exit 1
"""
    job = submit(
        "train.sbatch",
        ["--save_dir", str(tmp_path / "run")],
        ["--nodes=2"],
        PYTHON=pretend(tmp_path, crash),
        MAX_STARTS_WITHOUT_PROGRESS="2",
    )
    for _ in range(3):
        job.start_again()
    assert job.end() == "FAILED", job.output
    assert (job.exit_status, job.restarts) == (1, 3)
    assert "giving up: ended with 1, and 2 starts in a row did not get beyond step 40" in job.output
    starts = (job.logs / f"{job.number}.starts").read_text().splitlines()
    assert [start.split()[0] for start in starts] == ["none", "none", "40", "40"]


def test_a_job_that_slurm_itself_starts_again_and_again_ends(
    slurm: SlurmCluster, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    job = submit(
        "train.sbatch",
        ["--save_dir", str(tmp_path / "run")],
        ["--nodes=2"],
        PYTHON=pretend(tmp_path, "exec sleep 600"),
        MAX_STARTS_WITHOUT_PROGRESS="2",
    )
    job.wait_while_running(lambda: len(slurm.tasks(job.number)) == 2, "running")
    # A failed node, which comes back at once.
    slurm.ask("scontrol", "update", f"NodeName={NODES[1]}", "State=DOWN", "Reason=test")
    job.start_again()
    job.wait_while_running(lambda: len(slurm.tasks(job.number)) == 2, "running again")
    slurm.requeue(job.number)
    job.start_again()
    assert job.end() == "FAILED", job.output
    assert job.restarts == 2
    assert "giving up: 2 starts in a row did not get beyond step none" in job.output


ENDS: dict[str, tuple[str, list[str], int, str]] = {
    "not finite": ("exit 3", [], 3, "ended with 3: nothing that another start would change"),
    "a file STOP": (
        'mkdir -p "$3" && echo \'{"state": "stopped", "step": 7, "reason": "runs/a/STOP"}\''
        ' >"$3/status.json"; exit 75',
        [],
        GO_ON_LATER,
        "ended, as the file runs/a/STOP asked",
    ),
    "--no-requeue": ("exit 75", ["--no-requeue"], GO_ON_LATER, "Slurm does not put it into"),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_ends_a_job(tmp_path: Path, submit: Callable[..., Submitted], case: str) -> None:
    what, options, status, line = ENDS[case]
    arguments = ["--save_dir", str(tmp_path / "run")]
    job = submit("train.sbatch", arguments, options, PYTHON=pretend(tmp_path, what))
    assert job.end() == "FAILED", job.output
    assert (job.exit_status, job.restarts) == (status, 0)
    assert line in job.output


def test_a_cancelled_job_waits_for_the_save_and_stays_ended(
    slurm: SlurmCluster, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    what = "trap 'sleep 2; echo saved; exit 75' TERM; echo ready; sleep 600 & wait"
    arguments = ["--save_dir", str(tmp_path / "run")]
    job = submit("train.sbatch", arguments, ["--nodes=2"], PYTHON=pretend(tmp_path, what))
    job.wait_while_running(lambda: job.logs_with("ready") == 2, "ready to be ended")
    slurm.cancel(job.number)
    assert job.end() == "CANCELLED"
    assert "saved" in job.log(0)
    assert "ended with 75 after SIGTERM" in job.output


@pytest.mark.distributed
def test_an_array_trains_once_per_line(
    slurm: SlurmCluster, small: Small, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    sweep, runs = tmp_path / "rates.txt", [tmp_path / "one", tmp_path / "the other"]
    sweep.write_text(
        f"# rate, folder\n--learning_rate 1e-3 --save_dir {runs[0]}\n\n"
        f"--learning_rate 2e-3 --save_dir '{runs[1]}'\n"
    )
    settings = training(small, tmp_path / "none", "--warmup_ratio", "0", steps=1)
    job = submit("train.sbatch", settings, ["--array=1-2"], SWEEP=str(sweep))
    for task in job.tasks(2):
        assert slurm.wait_until_ended(task) == "COMPLETED", job.everything()
    assert [rows(run)[0]["learning_rate"] for run in runs] == [1e-3, 2e-3]
    assert not (tmp_path / "none").exists()


def test_of_an_array_only_what_was_stopped_is_put_into_the_queue_again(
    slurm: SlurmCluster, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    sweep = tmp_path / "seeds.txt"
    sweep.write_text("--seed 1\n--seed 2\n")
    stop_second = '[ "$SLURM_ARRAY_TASK_ID-${SLURM_RESTART_COUNT:-0}" != 2-0 ] || exit 75'
    job = submit(
        "train.sbatch",
        ["--batch_size", "3"],
        ["--array=1-2"],
        PYTHON=pretend(tmp_path, stop_second),
        SWEEP=str(sweep),
    )
    tasks = job.tasks(2)
    # What makes it hard: the last task has the number of them all.
    assert tasks[f"{job.number}_2"] == job.number
    job.name = f"{job.number}_2"
    job.start_again()
    assert job.end() == "COMPLETED", job.everything()
    assert slurm.state(f"{job.number}_1") == "COMPLETED"
    assert [int(slurm.job(name)["Restarts"]) for name in tasks] == [0, 1]
    options = "--batch_size 3 --save_dir runs/seeds/2 --seed 2 --resume auto"
    assert options in job.log(0)


def test_each_task_of_an_array_has_a_place_of_its_own_on_s3(
    slurm: SlurmCluster, bucket: str, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    sweep = tmp_path / "seeds.txt"
    sweep.write_text(f"--seed 1\n--seed 2 --checkpoint_uri s3://{bucket}/named\n")
    job = submit(
        *("train.sbatch", ["--checkpoint_uri", f"s3://{bucket}/all/"], ["--array=1-2"]),
        PYTHON=pretend(tmp_path, ""),
        SWEEP=str(sweep),
    )
    tasks = job.tasks(2)
    for task in tasks:
        assert slurm.wait_until_ended(task) == "COMPLETED", job.everything()
    given = [
        (job.logs / f"{number}-0.log").read_text().split("--checkpoint_uri ")[-1].split()[0]
        for number in tasks.values()
    ]
    assert given == [f"s3://{bucket}/all/seeds/1", f"s3://{bucket}/named"]


def test_one_process_per_gpu(tmp_path: Path, submit: Callable[..., Submitted]) -> None:
    arguments = ["--save_dir", str(tmp_path / "run")]
    stand_in = pretend(tmp_path, "")
    gpus = ["--nodes=2", "--gpus-per-node=2", "--cpus-per-gpu=8"]
    job = submit("train.sbatch", arguments, gpus, PYTHON=stand_in)
    told = submit("train.sbatch", arguments, ["--nodes=2", "--ntasks-per-node=3"], PYTHON=stand_in)
    for submitted, processes in ((job, 4), (told, 6)):
        assert submitted.end() == "COMPLETED", submitted.everything()
        for rank in range(processes):
            assert f"process {rank} of {processes}: launch/train.py" in submitted.log(rank)
    assert "WARNING" not in job.output
    # Nobody has asked for CPUs.
    assert "has 3 CPUs for 3 processes and their loaders: ask for more" in told.output


CONTAINERS = {
    "apptainer": ("/images/prs-med.sif", "apptainer exec --bind {mounts} --pwd {root} {image}"),
    "pyxis": (
        "registry#prs-med:1",
        "srun --container-image={image} --container-mounts={mounts} --container-workdir={root}",
    ),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_in_a_container(
    tmp_path: Path, submit: Callable[..., Submitted], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for Apptainer and for an srun with pyxis show what they are given."""
    image, command = CONTAINERS[kind]
    programs = tmp_path / "bin"
    programs.mkdir()
    note = f'echo "$(basename "$0") $*" >>{tmp_path}/given\n'
    stand_in = programs / command.partition(" ")[0]
    if kind == "apptainer":
        stand_in.write_text(f'#!/bin/bash\n{note}shift 6\nexec "$@"\n')
    else:
        stand_in.write_text(
            "#!/bin/bash\n"
            '[ "$1" != --help ] || { echo "  --container-image=[USER@][REGISTRY#]IMAGE"; exit; }\n'
            f"{note}options=()\n"
            'for word; do [[ $word == --container-* ]] || options+=("$word"); done\n'
            f'exec {shutil.which("srun")} "${{options[@]}}"\n'
        )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    job = submit(
        "train.sbatch",
        ["--save_dir", str(tmp_path / "run")],
        ["--nodes=2"],
        PYTHON=pretend(tmp_path, ""),
        IMAGE=image,
        MOUNTS="/data:/data",
    )
    assert job.end() == "COMPLETED", job.everything()
    assert "process 1 of 2: launch/train.py" in job.log(1)
    given = (tmp_path / "given").read_text()
    mounts = f"{ROOT}:{ROOT},/data:/data"
    words = command.format(image=image, mounts=mounts, root=ROOT).split()
    assert all(word in given for word in words)
    assert "launch/slurm/standing.py" in given
    assert "launch/train.py" in given


def test_evaluation_goes_on_after_the_time_limit(
    slurm: SlurmCluster, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    # The signal of the time limit ends a program that does not know it.
    end_once = f"[ -f {tmp_path}/begun ] || {{ touch {tmp_path}/begun; exec sleep 600; }}"
    options = ["--checkpoint", "runs/a/best", "--data_root", "data"]
    stand_in = pretend(tmp_path, end_once)
    job = submit("eval.sbatch", options, ["--nodes=2"], PYTHON=stand_in)
    job.wait_while_running((tmp_path / "begun").exists, "begun")
    slurm.signal(job.number, "USR1")
    job.start_again()
    assert job.end() == "COMPLETED", job.everything()
    assert "process 1 of 2: launch/eval.py --checkpoint runs/a/best --data_root data" in job.log(1)


def test_evaluation_does_not_crash_forever(
    tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    stand_in = pretend(tmp_path, "exit 1")
    job = submit("eval.sbatch", [], PYTHON=stand_in, MAX_RESTARTS="1")
    job.start_again()
    assert job.end() == "FAILED", job.everything()
    assert (job.exit_status, job.restarts) == (1, 1)
    assert "giving up: ended with 1 after 1 restarts" in job.output
    mistake = submit("eval.sbatch", ["--no_such_option"])
    assert mistake.end() == "FAILED"
    assert (mistake.exit_status, mistake.restarts) == (2, 0)


def test_a_dataset_is_built(
    slurm: SlurmCluster, small: Small, tmp_path: Path, submit: Callable[..., Submitted]
) -> None:
    interrupted = tmp_path / "interrupted"
    once = f"[ -f {interrupted} ] || {{ touch {interrupted}; exec sleep 600; }}"
    stand_in = pretend(tmp_path, f'{once}\nexec {shlex.quote(sys.executable)} "$@"')
    options = ["build", "--data_root", str(small.data), "--output", str(tmp_path / "dataset")]
    job = submit("data.sbatch", options, ["--cpus-per-task=2"], PYTHON=stand_in)
    job.wait_while_running(interrupted.exists, "begun")
    slurm.signal(job.number, "USR1")
    job.start_again()
    assert job.end() == "COMPLETED", job.everything()
    assert (tmp_path / "dataset" / "dataset.json").exists()
    assert "give it as --data to launch/train.py" in job.log(0)
    mistake = submit("data.sbatch", ["build"])
    assert mistake.end() == "FAILED"
    assert (mistake.exit_status, mistake.restarts) == (2, 0)
