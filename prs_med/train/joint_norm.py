"""One gradient norm for both engines: clipping and the verdict on bad steps are shared.

DeepSpeed's ZeRO optimizers each clip by, and skip a step on, the norm of their own gradients. Left
so, a step whose gradients are not finite on one side would be skipped there and taken on the
other, and the two sides would drift apart. There is no public switch for this, so the method with
which each optimizer computes its norm is replaced, on the instance, by one that returns the norm
over both. Everything else (unscaling, clipping, discarding a bad step) stays DeepSpeed's.

The names replaced are those of DeepSpeed 0.19; tests/distributed/test_bad_steps.py fails if a
release renames them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.utils import combine_grad_norm_groups
from torch import Tensor


class JointNorm:
    """The gradient norm over several ZeRO optimizers (stages 1 to 3, offloaded or not)."""

    def __init__(self, optimizers: list[Any]) -> None:
        self._own_norms = [self._take_over(*numbered) for numbered in enumerate(optimizers)]
        self._joint: list[Tensor] = []

    def update(self, veto: bool = False) -> list[float]:
        """Compute the norms of the gradients at hand: over all optimizers, then each one's own.

        They are equal on all ranks; infinite if a gradient is not finite on any. Call it once per
        optimizer step, after the last backward pass and before the first ``step()``.

        Args:
            veto: have the optimizers discard the step, as if the norm were not finite.
        """
        # Offloaded gradients are still being copied to the host.
        get_accelerator().synchronize()
        own = [own_norm() for own_norm in self._own_norms]
        joint = combine_grad_norm_groups([norm.cpu() for norm in own])
        # Offloaded optimizers keep theirs on the host and expect it there.
        told = torch.full_like(joint, torch.inf) if veto else joint
        self._joint = [told.to(norm.device) for norm in own]
        return [float(norm) for norm in (joint, *own)]

    def _take_over(self, index: int, optimizer: Any) -> Callable[[], Tensor]:
        if hasattr(optimizer, "scaled_global_norm"):  # stages 1 and 2
            own_norm: Callable[[], Tensor] = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda norm_type=2: self._joint[index]
            return lambda: combine_grad_norm_groups([own_norm()])
        norm_groups = optimizer._get_norm_groups
        optimizer._get_norm_groups = lambda: [self._joint[index]]
        return lambda: combine_grad_norm_groups(norm_groups())
