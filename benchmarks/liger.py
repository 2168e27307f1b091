"""Liger's fused kernels in the language model, for as long as a benchmark compares them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from unittest.mock import patch

from torch import Tensor, nn


@contextmanager
def liger_kernels(language_model: nn.Module) -> Iterator[None]:
    """Norms, rotary embeddings and SwiGLU of a Mistral by Liger's kernels within this context.

    Raises:
        ModuleNotFoundError: it is not installed; benchmarks/requirements-gpu.txt names it.
    """
    from liger_kernel.transformers.rope import liger_rotary_pos_emb
    from liger_kernel.transformers.swiglu import LigerSwiGLUMLP

    attention = "transformers.models.mistral.modeling_mistral.apply_rotary_pos_emb"
    with ExitStack() as stack:
        stack.enter_context(patch(attention, liger_rotary_pos_emb))
        for layer in language_model.layers:
            forward = MethodType(LigerSwiGLUMLP.forward, layer.mlp)
            stack.enter_context(patch.object(layer.mlp, "forward", forward))
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                stack.enter_context(patch.object(norm, "forward", partial(_rms_norm, norm)))
        yield


def _rms_norm(norm: nn.Module, hidden: Tensor) -> Tensor:
    from liger_kernel.ops import LigerRMSNormFunction

    # Not in place: the backward pass of what comes before may need what it overwrites.
    return LigerRMSNormFunction.apply(
        hidden, norm.weight, norm.variance_epsilon, 0.0, "llama", False, None
    )
