"""Attention on the meta device as PyTorch computes it on a GPU.

Without a GPU, PyTorch would choose the attention that writes the whole matrix of weights to memory.
On a GPU it takes a fused kernel, which keeps far less for the backward pass. These kernels know the
shapes of their results on the meta device too, so they can be called there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNMENT = 16
"""The memory-efficient kernel wants rows of the bias to start at multiples of it; PyTorch copies
the bias into such rows otherwise."""
_FLASH_WIDTH = 256
"""Widest head of the flash kernel."""


@contextmanager
def gpu_attention() -> Iterator[None]:
    """Within this context, scaled dot-product attention means the GPU's fused kernels.

    The function itself is replaced: a torch function mode would not see the calls that modules of
    PyTorch make from inside, nor those of a checkpointed layer in the backward pass.
    """
    with patch.object(F, "scaled_dot_product_attention", fused_attention):
        yield


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As :func:`torch.nn.functional.scaled_dot_product_attention`, on the kernel that PyTorch
    prefers on a GPU: flash, or the memory-efficient one with a mask or in fp32."""
    if attn_mask is None and query.dtype == torch.bfloat16 and query.shape[-1] <= _FLASH_WIDTH:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        result: Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return result
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(times, 1) for part in (key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query, key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    mixed: Tensor = efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]
    return mixed


def _bias(mask: Tensor, query: Tensor, keys: int) -> Tensor:
    """What is added to the scores, (B, heads, queries, keys)."""
    if mask.dtype == torch.bool:
        nothing = torch.zeros((), dtype=query.dtype, device=mask.device)
        mask = torch.where(mask, nothing, float("-inf"))
    if keys % _ALIGNMENT:
        mask = F.pad(mask, (0, -keys % _ALIGNMENT))[..., :keys]
    return mask.expand(*query.shape[:3], keys)
