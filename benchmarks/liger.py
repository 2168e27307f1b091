"""Liger's fused kernels in the language model, for as long as a benchmark compares them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from torch import nn
from transformers.models.mistral import modeling_mistral

from prs_med.model.liger import require_liger, use_liger_kernel
from prs_med.model.mllm import Mllm

_REPLACED = ("apply_rotary_pos_emb", "MistralRMSNorm", "MistralMLP")
"""What Liger puts its own in place of, for all Mistral models of a process."""
_OF_A_MODULE = ("forward", "extra_repr", "_get_name")
"""Some of these it puts into modules that exist."""


@contextmanager
def liger_kernels(mllm: Mllm) -> Iterator[None]:
    """``--use_liger_kernel`` within this context alone; the language model is a Mistral.

    Raises:
        SettingError: Liger is not installed or there is no GPU.
    """
    require_liger()
    with ExitStack() as stack:
        for name in _REPLACED:
            original = getattr(modeling_mistral, name)
            stack.enter_context(patch.object(modeling_mistral, name, original))
        stack.callback(_restore, mllm.llava.model.language_model)
        use_liger_kernel(mllm)
        yield


def _restore(language_model: nn.Module) -> None:
    for module in language_model.modules():
        if module._get_name().startswith("Liger"):
            for name in _OF_A_MODULE:
                module.__dict__.pop(name, None)
