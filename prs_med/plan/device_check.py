"""Are there GPUs, and can they compute what is asked?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from prs_med.config import ModelSettings
from prs_med.plan.findings import Finding, failed, passed, warned

_BF16_SINCE = (8, 0)


def check_devices(settings: ModelSettings) -> Iterator[Finding]:
    """The GPUs that this process sees, their driver, and bf16."""
    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield warned(
            "GPU",
            "PyTorch finds none" + ("" if built else "; it is built without CUDA"),
            "for a real run, check nvidia-smi and install PyTorch for CUDA"
            if not built
            else "for a real run, check nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
        return
    yield passed("CUDA", f"{torch.version.cuda}, driver {_driver()}")
    names: dict[str, list[int]] = {}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        text = f"{properties.name}, {properties.total_memory / 1e9:.1f} GB"
        names.setdefault(text, []).append(index)
        yield from _check_bf16(settings, index)
    for text, indices in names.items():
        yield passed("GPU", f"{len(indices)} x {text}")
    if len(names) > 1:
        yield warned("GPU", "of several kinds", "the slowest and smallest sets the pace for all")


def _check_bf16(settings: ModelSettings, index: int) -> Iterator[Finding]:
    capability = torch.cuda.get_device_capability(index)
    if settings.precision == "bf16" and capability < _BF16_SINCE:
        yield failed(
            f"GPU {index}",
            f"compute capability {capability[0]}.{capability[1]} has no bf16",
            "take one of 8.0 or newer (A100, L4, RTX 30 and later)",
        )


def _driver() -> str:
    # Only where PyTorch is built with CUDA.
    number = int(getattr(torch._C, "_cuda_getDriverVersion")())  # noqa: B009
    return f"for CUDA {number // 1000}.{number % 1000 // 10}"
