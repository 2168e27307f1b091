"""This process among those that a launcher started to answer together."""

from __future__ import annotations

import os

import torch

from prs_med.data.order import Rank
from prs_med.srun import launched_by_srun


def this_process() -> Rank:
    """Which of the processes of ``deepspeed``, ``torchrun`` or ``srun`` this one is; without them
    the only one. Takes its own GPU, if there are any.

    The processes share files and never talk to each other, so that one of them may be slow, or end
    before the others, without holding them up.
    """
    environment = {**launched_by_srun(os.environ, torch.cuda.device_count()), **os.environ}
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
    return Rank(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
