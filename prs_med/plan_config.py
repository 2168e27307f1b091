"""The settings of ``launch/plan.py`` beside those of training, defined once; see
:mod:`prs_med.config`."""

from __future__ import annotations

from dataclasses import dataclass

from prs_med.checked_settings import (
    CheckedSettings,
    SettingError,
    fraction,
    not_negative,
    positive,
    setting,
)


@dataclass(kw_only=True)
class MachineSettings(CheckedSettings):
    """Machine: what would be rented"""

    gpu: str = setting(
        "a100-80",
        "Kind of GPU: rtx4090, l4, a10g, l40s, a100-40, a100-80, h100-pcie, h100-nvl, h100, h200 "
        "or b200",
        common=("plan",),
    )
    gpus: int = setting(
        8, "Number of GPUs in all", positive, "a positive number", common=("plan",), most=1_000_000
    )
    gpus_per_node: int = setting(
        8, "GPUs of one machine", positive, "a positive number", most=1_000_000
    )
    network: str = setting(
        "infiniband-ndr",
        "Between machines: ethernet-10, ethernet-25, ethernet-100, efa-400, infiniband-hdr or "
        "infiniband-ndr",
        common=("plan",),
    )
    adapters_per_node: int = setting(
        0,
        "Network adapters of one machine (0: one for each GPU with InfiniBand, else one)",
        not_negative,
        "0 or more",
    )
    price: float | None = setting(
        None,
        "Price of one GPU for one hour, in any currency",
        not_negative,
        "0 or more",
        common=("plan",),
    )
    reserve_gb: float = setting(
        1.5,
        "GPU memory in GB (10^9 bytes) for the CUDA context, NCCL, cuBLAS and cuDNN; not modelled, "
        "so measure yours",
        not_negative,
        "0 or more",
    )
    fragmentation: float = setting(
        0.08,
        "Share of the activations that the allocator loses to fragmentation; not modelled",
        fraction,
        "0 <= value < 1",
    )
    disk_mb_s: float = setting(
        1000.0,
        "Speed of SAVE_DIR in MB/s, for all machines together",
        positive,
        "a positive number",
    )
    s3_mb_s: float = setting(
        300.0, "Speed of S3 in MB/s, for each machine", positive, "a positive number"
    )


@dataclass(kw_only=True)
class WorkloadSettings(CheckedSettings):
    """Workload: what passes through the model"""

    samples: int | None = setting(
        None,
        "Questions of an epoch (default: those of DATA, which is then read; else PosMed's 116,000)",
        positive,
        "a positive number",
    )
    prompt_text_tokens: int = setting(
        48,
        "Tokens of template and question in a batch's longest sequence; the image's come on top",
        positive,
        "a positive number",
        most=1_000_000,
    )
    answer_tokens: int = setting(
        40,
        "Tokens of answer and end token in a batch's longest sequence",
        positive,
        "a positive number",
        most=1_000_000,
    )
    questions_per_image: int = setting(
        3,
        "With BATCH_BY_IMAGE: questions about each image",
        positive,
        "a positive number",
        most=10_000,
    )
    sample_kb: float | None = setting(
        None,
        "Bytes that are read for a sample (image and mask, compressed), in kB (10^3 bytes) "
        "(default: those of DATA; else 160, the mean of 16 real images of 512 x 512 pixels)",
        positive,
        "a positive number",
    )
    loader_rate: float = setting(
        40.0,
        "Samples that one loader process prepares in a second at --image_size 1024 (49 measured on "
        "one core for 512 x 512 images, without texts)",
        positive,
        "a positive number",
    )
    encoder_size: str | None = setting(
        None,
        "Published size of the encoder if SAM_CKPT is not given: b, l or h of sam; tiny, small, "
        "base_plus or large of sam2 (default: the smallest)",
    )


@dataclass(kw_only=True)
class OutputSettings(CheckedSettings):
    """Plan: what is asked, and where the answer goes"""

    check: bool = setting(
        False,
        "Instead of a plan, test the surroundings: versions, GPUs, collectives, storage, data and "
        "model; exit status 1 if something failed",
        common=("plan",),
    )
    largest_batch: int = setting(
        16,
        "Do not recommend a larger micro-batch than this",
        positive,
        "a positive number",
        most=65_536,
    )
    json: str | None = setting(
        None, "File for all figures, for programs (default: none)", path="local"
    )


PLAN_GROUPS = (OutputSettings, MachineSettings, WorkloadSettings)


@dataclass(kw_only=True)
class PlanSettings(OutputSettings, MachineSettings, WorkloadSettings):
    """All settings of a plan."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus > self.gpus_per_node and self.gpus % self.gpus_per_node:
            raise SettingError(
                f"--gpus {self.gpus}: allowed are multiples of --gpus_per_node "
                f"{self.gpus_per_node}, or fewer than that"
            )
