"""What Slurm's variables say about a process."""

from __future__ import annotations

import pytest

from prs_med.srun import first_host, launched_by_srun
from prs_med.train import distributed

# As Slurm 22.05 sets them: in every process of a job, in its batch script, in the tasks of srun.
JOB = {
    "SLURM_JOB_ID": "123456",
    "SLURM_NTASKS": "5",
    "SLURM_NPROCS": "5",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NODELIST": "localhost,other",
}
BATCH_SCRIPT = {**JOB, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TASK = {
    **BATCH_SCRIPT,
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "7",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "localhost,other",
    "SLURM_STEP_TASKS_PER_NODE": "3,2",
    "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1",
}


def test_a_task_of_srun_is_one_of_a_group() -> None:
    assert launched_by_srun(TASK, gpus=0) == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(15000 + (101 * 123456 + 7) % 10000),
    }


@pytest.mark.parametrize(
    "environment", [{}, JOB, BATCH_SCRIPT, {**TASK, "SLURM_STEP_NUM_TASKS": "1"}]
)
def test_without_srun_a_process_is_alone(environment: dict[str, str]) -> None:
    assert launched_by_srun(environment, gpus=0) == {}


@pytest.mark.parametrize(("gpus", "local"), [(1, "0"), (2, "1"), (8, "1")])
def test_the_gpu_is_counted_among_those_that_are_seen(gpus: int, local: str) -> None:
    assert launched_by_srun(TASK, gpus)["LOCAL_RANK"] == local


def test_a_name_unknown_to_the_network_gives_way_to_the_address_of_srun() -> None:
    unknown = {**TASK, "SLURM_STEP_NODELIST": "gpu[1-2].invalid"}
    assert launched_by_srun(unknown, gpus=0)["MASTER_ADDR"] == "192.0.2.1"


def test_steps_and_jobs_have_ports_of_their_own() -> None:
    ports = {
        launched_by_srun({**TASK, "SLURM_JOB_ID": job, "SLURM_STEP_ID": step}, 0)["MASTER_PORT"]
        for job in ("9998", "9999", "10000")
        for step in ("0", "1", "2")
    }
    assert len(ports) == 9


@pytest.mark.parametrize(("node", "count"), [("0", "3"), ("2", "3"), ("3", "1"), ("4", "12")])
def test_tasks_are_counted_per_node(node: str, count: str) -> None:
    task = {**TASK, "SLURM_STEP_TASKS_PER_NODE": "3(x3),1,12", "SLURM_NODEID": node}
    assert launched_by_srun(task, gpus=0)["LOCAL_WORLD_SIZE"] == count


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu-[07-12,15],login", "gpu-07"),
        ("n[3,5-7]", "n3"),
        ("rack[2-3]n[08-11]", "rack2n08"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_what_another_launcher_says_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "29500"}
    environment = {**TASK, **said, "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(distributed.os, "environ", environment)
    monkeypatch.setattr(distributed.deepspeed, "init_distributed", lambda **options: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    distributed.start()
    assert environment.items() >= said.items()
    assert environment["MASTER_ADDR"] == "localhost"
