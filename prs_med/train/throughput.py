"""Speed and memory between two lines of the metrics log."""

from __future__ import annotations

import re
import resource
import time

import torch

PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "GH200": 989e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "A100": 312e12,
    "A100 PCIe": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "GeForce RTX 4090": 165e12,
}
"""Dense bf16 FLOP/s with fp32 accumulation from NVIDIA's data sheets, by what the driver calls a
GPU; without a form (PCIe, NVL), SXM."""

_SAME_CHIP = {"NVIDIA", "SXM", "SXM4", "SXM5", "PCIE", "HBM2", "HBM3", "HBM3e"}
"""Words that tell nothing about the peak, beside the memory's size (``80GB``)."""


class Throughput:
    """Counts samples and tokens since the last reading."""

    def __init__(self, flops_per_token: float) -> None:
        """``flops_per_token`` is what the model must compute to train on one token."""
        self._flops_per_token = flops_per_token
        self._peak = peak_bf16_flops()
        self.restart()

    def restart(self) -> None:
        """Forget what was counted and start the clock, so that a pause does not count."""
        self._start = time.perf_counter()
        self._samples = 0
        self._tokens = 0

    def count(self, samples: int, tokens: int) -> None:
        """Note that this process has trained on so many samples, and for them computed so many
        tokens: padding included, and what samples share once."""
        self._samples += samples
        self._tokens += tokens

    def read(self, world_size: int) -> dict[str, float]:
        """Rates over all processes since the last call, and this process's peak memory.

        ``mfu`` (on a GPU whose peak is known) is FLOPs per token · tokens/s ÷ peak.
        """
        elapsed = time.perf_counter() - self._start
        tokens = self._tokens / elapsed
        values = {
            "samples_per_s": self._samples * world_size / elapsed,
            "tokens_per_s": tokens * world_size,
            "memory_gb": peak_memory_gb(),
        }
        if self._peak is not None:
            values["mfu"] = self._flops_per_token * tokens / self._peak
        self.restart()
        return values


def peak_memory_gb() -> float:
    """Peak memory of this process so far in GB (10⁹ bytes): the GPU's if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_bf16_flops() -> float | None:
    """That of this process's GPU; None without one, or if its peak is not known."""
    return peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its driver's name, such as ``NVIDIA H100 80GB HBM3``; None for
    any form that is not known: a part of a GPU (MIG), or one for laptops, has another peak."""
    words = re.split(r"[\s-]+", name)
    kind = [word for word in words if word not in _SAME_CHIP and not re.fullmatch(r"\d+GB", word)]
    return PEAK_BF16_FLOPS.get(" ".join(kind))
