"""Speed and memory between two lines of the metrics log."""

from __future__ import annotations

import resource
import time

import torch

PEAK_BF16_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 FLOP/s with fp32 accumulation from NVIDIA's data sheets (H100 and H200: SXM)."""


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
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)
