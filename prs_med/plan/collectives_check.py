"""Do the processes of a job reach each other, and how fast?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from prs_med.data.order import Rank
from prs_med.plan.findings import Finding, failed, passed
from prs_med.srun import launched_by_srun

_ELEMENTS = {"cuda": 64 << 20, "cpu": 1 << 20}
"""fp32 numbers of the timed all-reduce."""
_ROUNDS = 5


def several_processes() -> bool:
    """Whether a launcher started more than this process."""
    gpus = torch.cuda.device_count()
    return bool(launched_by_srun(os.environ, gpus)) or int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_collectives(rank: Rank) -> Iterator[Finding]:
    """Sum a known vector over all processes, and time it; every process calls this."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = rank.world * (rank.world + 1) / 2
    values = torch.full((_ELEMENTS[device.type],), float(rank.index + 1), device=device)
    dist.all_reduce(values)
    name = f"all_reduce over {rank.world} processes ({dist.get_backend()})"
    if not bool((values == expected).all()):
        yield failed(name, "gives a wrong sum", "check cables and drivers; try NCCL_DEBUG=INFO")
        return
    seconds = _seconds(values)
    moved = 2 * (rank.world - 1) / rank.world * values.numel() * values.element_size()
    yield passed(name, f"right, {moved / seconds / 1e9:.2f} GB/s through each process")


def _seconds(values: torch.Tensor) -> float:
    """Of one all-reduce."""
    _wait(values)
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        dist.all_reduce(values)
    _wait(values)
    return (time.perf_counter() - begun) / _ROUNDS


def _wait(values: torch.Tensor) -> None:
    dist.barrier()
    if values.is_cuda:
        torch.cuda.synchronize()
