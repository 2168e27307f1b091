"""Training over two machines without a scheduler: ``deepspeed --hostfile`` and ``torchrun``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Small
from tests.distributed.launcher import ROOT
from tests.distributed.live_run import program, ranks, start, wait_for_lines
from tests.patience import patience
from tests.programs import launchers
from tests.run_folder import loss_curve
from tests.services.machines.namespaces import INTERFACE, NAMES, Machine, Machines, install_machines
from tests.services.packages import need

pytestmark = pytest.mark.distributed

BIN = Path(sys.executable).parent
STEPS = 8
SETTINGS = ("--max_steps", str(STEPS), "--log_every", "1", "--save_every_steps", "2")
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": INTERFACE,
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


@pytest.fixture
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines."""
    need(install_machines(), "machines for tests cannot be made")
    with Machines(tmp_path_factory.mktemp("machines")) as both:
        yield both


@pytest.fixture(scope="module")
def on_one_machine(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training in two processes of one machine."""
    run = tmp_path_factory.mktemp("one_machine") / "run"
    process = start(small, "deepspeed", run, *SETTINGS)
    output, _ = process.communicate(timeout=patience(300))
    assert process.returncode == 0, output[-3000:]
    return run


def environment(**more: str) -> dict[str, str]:
    """What a user has in the shell of a machine."""
    path = f"{BIN}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def torchrun(machine: Machine, nodes: str, program: list[str]) -> subprocess.Popen[str]:
    """Start an agent; the agents of all machines have the same options."""
    meet = ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"{NAMES[0]}:29400", "--rdzv_id", "first")
    # Shorter than the defaults (15 s until a machine counts as gone, 30 s for others to come).
    patience = ("--rdzv_conf", "keep_alive_interval=1,last_call_timeout=3")
    options = ("--nnodes", nodes, "--nproc_per_node", "1", "--max_restarts", "3")
    return machine.start(
        ["torchrun", *options, *meet, *patience, *program], ROOT, environment(**VARIABLES)
    )


def test_deepspeed_with_a_hostfile(
    machines: Machines, small: Small, tmp_path: Path, on_one_machine: Path
) -> None:
    hostfile, variables = tmp_path / "hostfile", tmp_path / "variables"
    hostfile.write_text("".join(f"{name} slots=1\n" for name in NAMES))
    variables.write_text("".join(f"{name}={value}\n" for name, value in VARIABLES.items()))
    run = tmp_path / "run"
    process = machines.machines[0].start(
        ["deepspeed", "--hostfile", str(hostfile), *program(small, run, *SETTINGS)],
        ROOT,
        environment(DS_ENV_FILE=str(variables)),
    )
    output, _ = process.communicate(timeout=patience(300))
    assert process.returncode == 0, output[-5000:]
    assert loss_curve(run) == loss_curve(on_one_machine)
    assert len(loss_curve(run)) == STEPS


def test_torchrun_on_two_machines_goes_on_after_a_killed_process(
    machines: Machines, small: Small, tmp_path: Path, on_one_machine: Path
) -> None:
    run = tmp_path / "run"
    training = program(small, run, *SETTINGS)
    agents = [torchrun(machine, "2", training) for machine in machines.machines]
    wait_for_lines(agents[0], run, STEPS // 2)
    (process,) = ranks(agents[1])
    os.kill(process, signal.SIGKILL)
    for agent in agents:
        output, _ = agent.communicate(timeout=patience(300))
        assert agent.returncode == 0, output[-5000:]
    assert loss_curve(run) == loss_curve(on_one_machine)


def test_torchrun_is_told_what_its_restarts_need(small: Small, tmp_path: Path) -> None:
    command = [launchers() / "torchrun", "--standalone", "--max_restarts", "1"]
    done = subprocess.run(
        [*command, *program(small, tmp_path, *SETTINGS)],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"},
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert done.returncode != 0
    assert "error: torchrun --max_restarts" in done.stderr
    assert "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.stderr


def test_without_a_machine_the_other_goes_on_with_the_same_global_batch(
    machines: Machines, small: Small, tmp_path: Path
) -> None:
    # Each process draws its own dropout.
    same = ("--lora_dropout", "0", "--decoder_dropout", "0", "--precision", "fp32")
    same += ("--global_batch_size", "4")
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    process = start(small, "deepspeed", undisturbed, *SETTINGS, *same)
    output, _ = process.communicate(timeout=patience(300))
    assert process.returncode == 0, output[-3000:]

    command = program(small, run, *SETTINGS, *same, "--hang_timeout", "10")
    first, second = machines.machines
    agents = [torchrun(machine, "1:2", command) for machine in (first, second)]
    wait_for_lines(agents[0], run, STEPS // 2)
    second.kill()
    output, _ = agents[0].communicate(timeout=patience(300))
    assert agents[0].returncode == 0, output[-5000:]
    assert "rank 1 gives no sign" in output
    expected, found = loss_curve(undisturbed), loss_curve(run)
    assert [step for step, *_ in found] == [step for step, *_ in expected]
    assert [row[1:] for row in found] == [pytest.approx(row[1:], rel=2e-3) for row in expected]
