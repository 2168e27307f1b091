"""A low and a high estimate, and what makes the difference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """From the best case to the worst that is still ordinary."""

    best: float
    worst: float

    @property
    def middle(self) -> float:
        """The geometric mean: as far from one as from the other, as a factor."""
        return (self.best * self.worst) ** 0.5

    def __add__(self, other: Range) -> Range:
        return Range(self.best + other.best, self.worst + other.worst)

    def times(self, factor: float) -> Range:
        """Both, multiplied."""
        return Range(self.best * factor, self.worst * factor)

    def over(self, dividend: float) -> Range:
        """``dividend`` over both: the best case stays the best."""
        return Range(dividend / self.best, dividend / self.worst)


def larger(first: Range, second: Range) -> Range:
    """Of two things that happen at the same time, the one that takes longer."""
    return Range(max(first.best, second.best), max(first.worst, second.worst))


@dataclass(frozen=True)
class Efficiency:
    """Shares of a data sheet's rates that are reached, and the cost of starting kernels."""

    compute: float
    """Of peak FLOP/s, within a matrix product, convolution or attention. Not of a whole step: what
    is bound by memory is counted by itself."""
    memory: float
    """Of the GPU memory's bandwidth."""
    segmentation: float
    """What is left of these two in the encoder, the mask decoder and the losses."""
    network: float
    """Of links' and adapters' line rates."""
    launch: float
    """Seconds for which Python and PyTorch are busy with one operation."""


BEST = Efficiency(compute=0.75, memory=0.85, segmentation=0.7, network=0.85, launch=5e-6)
"""What good libraries reach on large shapes: about three quarters of the peak in cuBLAS (the clock
falls under full load) and 70 % in FlashAttention-2 and -3 (Dao 2023, arXiv 2307.08691; Shah et al.
2024, arXiv 2407.08608); 85 % of line rates in copies and NCCL's rings.

The segmentation side's shares, this and the worst, are fitted to the only measurement there is:
TinySAM and the decoder on an H200, in fp32 and in bf16 (docs/performance.md). Depthwise
convolutions, heads of 16 to 32 and images of few channels use tensor cores and cache lines badly.
Other encoders were not measured."""

WORST = Efficiency(compute=0.4, memory=0.55, segmentation=0.45, network=0.5, launch=35e-6)
"""Small shapes that fill the GPU unevenly, strided access, shared PCIe switches, and hooks of
DeepSpeed and PEFT around every layer. One H200's host, a virtual machine, took 170 to 220 ms for
the 6,000 operations of a step with one image."""
