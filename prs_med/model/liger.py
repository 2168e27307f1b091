"""Liger's fused kernels in the language model (Hsu et al. 2024, arXiv 2410.10989)."""

from __future__ import annotations

import importlib.util
import os

import torch

from prs_med.config import SettingError
from prs_med.model.mllm import Mllm


def require_liger() -> None:
    """Before a model is loaded, which may take long: can ``--use_liger_kernel`` be used?

    Raises:
        SettingError: Liger is not installed or there is no GPU.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        raise SettingError(
            "--use_liger_kernel: Liger is not installed; pip install 'prs-med[liger]', or drop it"
        )
    # Triton's interpreter needs no GPU. It is slow, and there for tests.
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise SettingError("--use_liger_kernel: Liger's kernels need a GPU; drop it")


def use_liger_kernel(mllm: Mllm) -> None:
    """Let norms, rotary embeddings and SwiGLU of the language model each be one kernel, in place.

    Names and values of parameters stay as they are. Rotary embeddings, and language models of the
    same kind made later, change in the whole process, as Liger replaces them in transformers. Its
    cross-entropy is left out: losses here need the logits of answers alone, which are few.
    """
    from liger_kernel.transformers import (
        apply_liger_kernel_to_llama,
        apply_liger_kernel_to_mistral,
    )

    language_model = mllm.llava.model.language_model
    replace = {"mistral": apply_liger_kernel_to_mistral, "llama": apply_liger_kernel_to_llama}
    replace[language_model.config.model_type](
        cross_entropy=False, fused_linear_cross_entropy=False, model=language_model
    )
