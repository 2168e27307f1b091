"""Who this process is among all of them, and the few things they agree on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from prs_med.config import SettingError
from prs_med.data.order import Rank
from prs_med.srun import launched_by_srun
from prs_med.train.agreement import Agreement

T = TypeVar("T")

_agreements: dict[Any, Agreement] = {}
"""Of the group of all processes."""


def start() -> Rank:
    """Join the processes that the launcher started; without a launcher, be the only one.

    Raises:
        SettingError: processes that ``torchrun`` starts again could not find each other.
    """
    _refuse_a_store_that_outlives_processes()
    for name, value in launched_by_srun(os.environ, torch.cuda.device_count()).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    _share_cores()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # It would be compiled now, for inference alone. A process killed meanwhile leaves a lock that
    # every later start waits for; one killed later leaves its buffers (70 MB) in shared memory.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend=get_accelerator().communication_backend_name(), verbose=False
    )
    return Rank(dist.get_rank(), dist.get_world_size())


def stop() -> None:
    """Leave the group, so that the process ends without complaint."""
    if dist.is_initialized():
        _agreements.clear()
        dist.destroy_process_group()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum of a tensor over all processes."""
    dist.all_reduce(values)
    return values


def from_rank_zero(value: Any) -> Any:
    """The object that rank 0 holds, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def once(action: Callable[[], T]) -> T:
    """What ``action`` gives, or raises, on rank 0, which alone does it; the same on every rank. It
    may take as long as it likes."""
    outcome = _patiently(action if dist.get_rank() == 0 else lambda: None)
    good, value = from_rank_zero(outcome)
    if good:
        found: T = value
        return found
    raise value


def each(action: Callable[[], T]) -> list[T]:
    """What ``action`` gives on each rank, on every rank. It may take as long as it likes.

    Raises:
        Exception: what it raised on the first rank where it failed.
    """
    outcomes = gathered(_patiently(action))
    for good, value in outcomes:
        if not good:
            raise value
    return [value for _, value in outcomes]


def all_agree(answer: bool) -> bool:
    """Whether the answer is yes on every rank."""
    return all(gathered(answer))


def first_of(problem: str) -> str:
    """The text of the first rank that has one, on every rank; empty if none has."""
    return next((text for text in gathered(problem) if text), "")


def gathered(value: T) -> list[T]:
    """The values of all ranks, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until all processes are here."""
    dist.barrier()


def agreement() -> Agreement:
    """How the processes talk over the host. All must ask for it together the first time."""
    group = dist.group.WORLD
    if group not in _agreements:
        _agreements.clear()
        _agreements[group] = Agreement()
    return _agreements[group]


def _patiently(action: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether an action succeeded, and what it gave or raised; once those of all ranks ended."""
    with agreement().waiting_for_all():
        try:
            return True, action()
        except Exception as error:
            return False, error


def _refuse_a_store_that_outlives_processes() -> None:
    # torchrun's agents keep one store for all starts (PyTorch 2.13, issue 135712). Processes that
    # are started again find there where the ones before them listened, and wait for those until
    # the timeout; a group that lost its first machine is sent to that machine's store.
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise SettingError(
            "torchrun --max_restarts: processes that are started again would not find each other; "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment on all machines"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _share_cores() -> None:
    # Several CPU ranks with PyTorch's default, one thread per core each, slow each other down.
    if "OMP_NUM_THREADS" not in os.environ and not torch.cuda.is_available():
        # torchrun's name for it, then the deepspeed launcher's.
        local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
