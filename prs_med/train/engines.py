"""Two DeepSpeed engines behind one object: the rest of training sees one model.

The language model runs under ZeRO-2 or 3 in bf16; the segmentation side under ZeRO-1 in fp32. One
loss flows backward through both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.model.mllm import Mllm
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.segmentation import SegmentationBranch
from prs_med.train.deepspeed_config import segmentation_config
from prs_med.train.joint_norm import JointNorm


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    applied: bool
    """False if a gradient was not finite: then neither side was changed."""
    gradient_norm: float
    """Norm over all gradients of both sides, before clipping; infinite for a bad step."""
    mllm_norm: float
    """The language model's part of it."""
    segmentation_norm: float
    """The segmentation side's part of it."""


class Engines:
    """The whole model under DeepSpeed."""

    def __init__(
        self,
        mllm: Mllm,
        segmentation: SegmentationBranch,
        settings: Settings,
        config: dict[str, Any],
    ) -> None:
        """``config`` comes from :func:`prs_med.train.deepspeed_config.load_deepspeed_config`."""
        self._rates = (
            settings.learning_rate,
            settings.segmentation_learning_rate or settings.learning_rate,
        )
        self.mllm = _initialize(mllm, self._rates[0], settings.weight_decay, config)
        self.segmentation = _initialize(
            segmentation, self._rates[1], settings.weight_decay, segmentation_config(config)
        )
        self._joint_norm = JointNorm([engine.optimizer for engine in self._both])

    @property
    def _both(self) -> tuple[Any, Any]:
        return self.mllm, self.segmentation

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.mllm.device)

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        for engine in self._both:
            engine.train(mode)

    def forward(self, batch: Batch) -> Outputs:
        """One forward pass; every rank must call it equally often."""
        return forward(self.mllm, self.segmentation, batch)

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss that is a mean over this micro-batch, through both sides.

        Through ``engine.backward``: with gradient accumulation, a plain ``loss.backward()``
        scales the two engines' gradients differently (DeepSpeed 0.19.8).
        """
        self.segmentation.backward(loss)

    def step(self, rate_factor: float) -> StepResult | None:
        """End a micro-batch. The last of an accumulation updates the weights with the peak
        learning rates times ``rate_factor``, and returns what happened; the others give None."""
        if not self.mllm.is_gradient_accumulation_boundary():
            for engine in self._both:
                engine.step()
            return None
        norms = self._joint_norm.update()
        for engine, rate in zip(self._both, self._rates, strict=True):
            for group in engine.optimizer.param_groups:
                group["lr"] = rate * rate_factor
            engine.step()
        applied = [engine.was_step_applied() for engine in self._both]
        assert applied[0] == applied[1], "the engines disagree about a step"
        return StepResult(applied[0], *norms)


def _initialize(module: nn.Module, rate: float, weight_decay: float, config: dict[str, Any]) -> Any:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine
