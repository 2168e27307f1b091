"""The peak of a GPU, by the name that its driver gives it."""

from __future__ import annotations

import pytest

from prs_med.plan.hardware import CARDS
from prs_med.train.throughput import peak_of

NAMES = {
    "rtx4090": ["NVIDIA GeForce RTX 4090"],
    "l4": ["NVIDIA L4"],
    "a10g": ["NVIDIA A10G"],
    "l40s": ["NVIDIA L40S"],
    "a100-40": ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "A100-SXM4-40GB"],
    "a100-80": ["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"],
    "h100-pcie": ["NVIDIA H100 PCIe"],
    "h100-nvl": ["NVIDIA H100 NVL"],
    "h100": ["NVIDIA H100 80GB HBM3", "NVIDIA H100"],
    "h200": ["NVIDIA H200"],
    "b200": ["NVIDIA B200"],
}


def test_every_card_of_a_plan_has_its_drivers_name() -> None:
    assert NAMES.keys() == CARDS.keys()


@pytest.mark.parametrize("card", CARDS)
def test_a_run_and_a_plan_measure_by_the_same_peak(card: str) -> None:
    for name in NAMES[card]:
        assert peak_of(name) == CARDS[card].bf16


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A10",
        "NVIDIA L40",
        "NVIDIA H20",
        "Tesla T4",
        "",
    ],
)
def test_of_other_gpus_nothing_is_claimed(name: str) -> None:
    assert peak_of(name) is None
