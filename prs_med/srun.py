"""Who a process is among those that Slurm's ``srun`` started, in the words of other launchers."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

_FIRST_PORT, _PORTS = 15000, 10000
"""Below the ports that Linux gives to clients (from 32768), which may be in use at any time."""


def launched_by_srun(environment: Mapping[str, str], gpus: int) -> dict[str, str]:
    """``RANK``, ``MASTER_ADDR`` and the others that ``torchrun`` sets, from Slurm's variables.

    Empty in a process that is not one of several tasks of ``srun``. A batch script, and an
    ``salloc`` shell, have ``SLURM_NTASKS`` too, a batch script also ``SLURM_PROCID`` (0): both
    describe the job, and a program they start without ``srun`` runs once. Only ``srun`` sets
    ``SLURM_STEP_NUM_TASKS``. It is 1 in the shell that ``salloc`` opens on a node where the cluster
    is set up so, which is itself a step.

    Args:
        environment: the environment variables.
        gpus: how many this process sees.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1:
        return {}
    local = int(environment["SLURM_LOCALID"])
    on_node = _counts(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment["SLURM_NODEID"])]
    # Every task must find the same port without asking the others. Jobs may share a node, and so
    # may steps of a job.
    start = 101 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        # With --gpus-per-task every task sees its own GPUs only, as number 0 and so on.
        "LOCAL_RANK": str(local % gpus if gpus else local),
        "LOCAL_WORLD_SIZE": str(on_node),
        "MASTER_ADDR": _address(environment),
        "MASTER_PORT": str(_FIRST_PORT + start % _PORTS),
    }


def first_host(hosts: str) -> str:
    """The first host of a list such as ``gpu[07-12,15],login``, here ``gpu07``.

    ``scontrol show hostnames`` does the same, but containers seldom have it.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    assert first, "an empty list also matches"
    return re.sub(r"\[([^\]\-,]*)[^\]]*\]", r"\1", first[0])


def _address(environment: Mapping[str, str]) -> str:
    # Task 0 runs on the step's first node. SLURM_LAUNCH_NODE_IPADDR is where srun itself runs: the
    # job's first node for a batch script, but not if the step has other nodes, and not for an srun
    # on a login node. So it is second choice, for clusters that know nodes by other names than the
    # network does (NodeAddr in slurm.conf).
    first = first_host(environment["SLURM_STEP_NODELIST"])
    try:
        socket.getaddrinfo(first, None)
    except OSError:
        return environment.get("SLURM_LAUNCH_NODE_IPADDR", first)
    return first


def _counts(counts: str) -> list[int]:
    """Numbers per node, of which Slurm writes equal neighbours as ``2(x3)``."""
    return [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
        for _ in range(int(times or 1))
    ]
