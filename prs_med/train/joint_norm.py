"""One gradient norm for both engines: clipping and the verdict on bad steps are shared.

DeepSpeed's ZeRO optimizers each clip by, and skip a step on, the norm of their own gradients. Left
so, a step whose gradients are not finite on one side would be skipped there and taken on the
other, and the two sides would drift apart. There is no public switch for this, so the method with
which each optimizer computes its norm is replaced, on the instance, by one that returns the norm
over both. Unscaling and clipping stay DeepSpeed's.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.utils import combine_grad_norm_groups
from torch import Tensor

from prs_med.train.zero_optimizer import replace_norm


class JointNorm:
    """The gradient norm over several ZeRO optimizers (stages 1 to 3, offloaded or not)."""

    def __init__(self, optimizers: list[Any]) -> None:
        self._joint: list[Tensor] = []
        self._own_norms = [
            replace_norm(optimizer, lambda index=index: self._joint[index])  # type: ignore[misc]
            for index, optimizer in enumerate(optimizers)
        ]

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
