"""GPUs and networks by name, with the figures of their makers' data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from prs_med.checked_settings import SettingError
from prs_med.plan_config import MachineSettings

T = TypeVar("T")

_MIB = 2**20
_PCIE_4, _PCIE_5 = 32e9, 64e9
"""Bytes/s in one direction over 16 lanes (PCI-SIG: 16 and 32 GT/s a lane)."""


@dataclass(frozen=True)
class Card:
    """One kind of GPU. Speeds are peaks, without sparsity."""

    name: str
    memory: int
    """Bytes that the driver shows (nvidia-smi), which is less than the name says."""
    bf16: float
    """FLOP/s of matrix products in bf16, summed in fp32."""
    tf32: float
    """FLOP/s in TF32: PyTorch's default for convolutions in fp32."""
    fp32: float
    """FLOP/s in fp32: PyTorch's default for matrix products in fp32."""
    bandwidth: float
    """Bytes/s from and to the GPU's memory."""
    link: float
    """Bytes/s in one direction to the other GPUs of the machine: NVLink, else PCIe."""
    pcie: float
    """Bytes/s in one direction to the host."""


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        # Dense tensor-core rates, bandwidths and links: NVIDIA's data sheets of each product.
        Card("rtx4090", 24564 * _MIB, 165e12, 82.6e12, 82.6e12, 1008e9, _PCIE_4, _PCIE_4),
        Card("l4", 23034 * _MIB, 121e12, 60e12, 30.3e12, 300e9, _PCIE_4, _PCIE_4),
        Card("a10g", 23028 * _MIB, 70e12, 35e12, 31.5e12, 600e9, _PCIE_4, _PCIE_4),
        Card("l40s", 46068 * _MIB, 362e12, 183e12, 91.6e12, 864e9, _PCIE_4, _PCIE_4),
        Card("a100-40", 40960 * _MIB, 312e12, 156e12, 19.5e12, 1555e9, 300e9, _PCIE_4),
        Card("a100-80", 81920 * _MIB, 312e12, 156e12, 19.5e12, 2039e9, 300e9, _PCIE_4),
        Card("h100-pcie", 81559 * _MIB, 756e12, 378e12, 51.2e12, 2000e9, _PCIE_5, _PCIE_5),
        Card("h100-nvl", 95830 * _MIB, 835e12, 417e12, 60e12, 3938e9, _PCIE_5, _PCIE_5),
        Card("h100", 81559 * _MIB, 989e12, 494e12, 66.9e12, 3350e9, 450e9, _PCIE_5),
        Card("h200", 143771 * _MIB, 989e12, 494e12, 66.9e12, 4800e9, 450e9, _PCIE_5),
        Card("b200", 183359 * _MIB, 2250e12, 1125e12, 75e12, 7700e9, 900e9, _PCIE_5),
    )
}

COMPARED = ("l4", "a100-40", "a100-80", "h200")
"""One card for each usual size of memory: 24, 40, 80 and 141 GB."""


@dataclass(frozen=True)
class Network:
    """What connects machines."""

    name: str
    adapter: float
    """Bytes/s in one direction of one adapter."""
    latency: float
    """Seconds for a message to the next machine; an assumption, as no data sheet tells."""
    one_per_gpu: bool
    """Whether machines usually have an adapter for each GPU."""


NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        # Line rates are in the names (Gb/s): HDR is 200 and NDR 400 (InfiniBand Trade Association),
        # EFA's 400 are those of a p4d.24xlarge (AWS).
        Network("ethernet-10", 10e9 / 8, 30e-6, False),
        Network("ethernet-25", 25e9 / 8, 30e-6, False),
        Network("ethernet-100", 100e9 / 8, 20e-6, False),
        Network("efa-400", 400e9 / 8, 15e-6, False),
        Network("infiniband-hdr", 200e9 / 8, 5e-6, True),
        Network("infiniband-ndr", 400e9 / 8, 5e-6, True),
    )
}

LINK_LATENCY = 3e-6
"""Seconds for a message to the next GPU of the same machine; an assumption, as above."""


@dataclass(frozen=True)
class Cluster:
    """GPUs in machines, and how these are connected."""

    card: Card
    gpus: int
    gpus_per_node: int
    network: Network
    adapters: int
    """Of one machine."""

    @property
    def nodes(self) -> int:
        """Machines."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def node_bandwidth(self) -> float:
        """Bytes/s in one direction between a machine and the others."""
        return self.adapters * self.network.adapter

    def of(self, gpus: int) -> Cluster:
        """The same machines, as many as ``gpus`` need."""
        return Cluster(self.card, gpus, self.gpus_per_node, self.network, self.adapters)


def cluster(settings: MachineSettings) -> Cluster:
    """The machines that the settings describe.

    Raises:
        SettingError: for an unknown GPU or network.
    """
    network = _named(NETWORKS, "network", settings.network)
    usual = settings.gpus_per_node if network.one_per_gpu else 1
    return Cluster(
        card=_named(CARDS, "gpu", settings.gpu),
        gpus=settings.gpus,
        gpus_per_node=settings.gpus_per_node,
        network=network,
        adapters=settings.adapters_per_node or usual,
    )


def _named(known: Mapping[str, T], setting: str, name: str) -> T:
    if name not in known:
        raise SettingError(f"--{setting} {name}: allowed are {', '.join(known)}")
    return known[name]
