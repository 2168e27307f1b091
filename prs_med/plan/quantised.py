"""Bytes of quantised linear layers, as bitsandbytes stores them (0.50)."""

from __future__ import annotations

from collections.abc import Sequence

_BLOCK = 64
"""Weights that share one scale."""
_NESTED_BLOCK = 256
"""Scales that share one scale of theirs, with double quantisation."""
_TABLES = 16 * 4 + 256 * 4 + 4
"""Of each layer: the 16 values of nf4, the 256 of the scales, and the scales' mean, in fp32."""


def nf4_bytes(layers: Sequence[tuple[int, int]]) -> int:
    """Packed weights of nf4: half a byte each."""
    return sum(-(-rows * columns // 2) for rows, columns in layers)


def nf4_scale_bytes(layers: Sequence[tuple[int, int]]) -> int:
    """What double-quantised nf4 keeps besides: a byte for each block of 64 weights, four for each
    256 of these, and tables. ZeRO-3 does not divide it."""
    total = 0
    for rows, columns in layers:
        blocks = -(-rows * columns // _BLOCK)
        total += blocks + 4 * -(-blocks // _NESTED_BLOCK) + _TABLES
    return total


def int8_bytes(layers: Sequence[tuple[int, int]]) -> int:
    """LLM.int8: a byte for each weight and an fp32 scale for each row."""
    return sum(rows * columns + 4 * rows for rows, columns in layers)


def largest_layer(layers: Sequence[tuple[int, int]]) -> int:
    """Weights of the largest layer: it is unpacked whenever it is used."""
    return max((rows * columns for rows, columns in layers), default=0)
