"""Two DeepSpeed engines behind one object: the rest of training sees one model.

The language model runs under ZeRO-2 or 3 in bf16; the segmentation side under ZeRO-1 in fp32. One
loss flows backward through both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.model.mllm import Mllm
from prs_med.model.prs_med import Outputs, forward
from prs_med.model.segmentation import SegmentationBranch
from prs_med.train.deepspeed_config import segmentation_config
from prs_med.train.joint_norm import JointNorm
from prs_med.train.partition import is_partitioned, partition
from prs_med.train.weight_average import WeightAverage
from prs_med.train.zero_optimizer import discard_gradients


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    applied: bool
    """False if a gradient was not finite: then neither side was changed."""
    gradient_norm: float
    """Norm over all gradients of both sides, before clipping; infinite for a bad step."""
    mllm_norm: float
    """The language model's part of it; 0 if it is not trained."""
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
        self._mllm_is_trained = any(p.requires_grad for p in mllm.parameters())
        self.segmentation = _initialize(
            segmentation,
            segmentation_groups(segmentation, settings),
            segmentation_config(config, monitors=not self._mllm_is_trained),
        )
        if self._mllm_is_trained:
            self.mllm = _initialize(mllm, mllm_groups(mllm, settings), config)
        else:
            self.mllm = _without_training(mllm, config, self.device)
        self.trained: dict[str, Any] = {
            **({"mllm": self.mllm} if self._mllm_is_trained else {}),
            "segmentation": self.segmentation,
        }
        """The engines with an optimizer, by name."""
        self._joint_norm = JointNorm([engine.optimizer for engine in self.trained.values()])
        self._average = (
            WeightAverage(
                [engine.optimizer for engine in self.trained.values()], settings.ema_decay
            )
            if settings.ema_decay
            else None
        )

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.segmentation.device)

    @property
    def language_model(self) -> Mllm:
        """The language model itself, for generation in evaluation mode.

        Under ZeRO-3 each of its layers gathers its weights when it is called: every rank must call
        the same ones in the same order. DeepSpeed forgets meanwhile which layers come next, and
        learns it anew in the training step that follows.
        """
        module: Mllm = getattr(self.mllm, "module", self.mllm)
        return module

    @property
    def monitor(self) -> Any:
        """DeepSpeed's monitor, as the user's configuration switches it on."""
        return next(iter(self.trained.values())).monitor

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off; a language model that is not trained has none."""
        self.mllm.train(mode and self._mllm_is_trained)
        self.segmentation.train(mode)

    def forward(self, batch: Batch) -> Outputs:
        """One forward pass; every rank must call it equally often."""
        return forward(self._run_mllm, self.segmentation, batch)

    def _run_mllm(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with nullcontext() if self._mllm_is_trained else torch.no_grad():
            result: tuple[Tensor, Tensor] = self.mllm(*inputs)
        return result

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss that is a mean over this micro-batch, through both sides.

        Through ``engine.backward``: with gradient accumulation, a plain ``loss.backward()``
        scales the two engines' gradients differently (DeepSpeed 0.19.8).
        """
        self.segmentation.backward(loss)

    def step(self, rate_factor: float, veto: bool = False) -> StepResult | None:
        """End a micro-batch. The last of an accumulation updates the weights with the peak
        learning rates times ``rate_factor``, unless there is a ``veto``, and returns what happened;
        the others give None."""
        if not self.segmentation.is_gradient_accumulation_boundary():
            for engine in self.trained.values():
                engine.step()
            return None
        joint, *own = self._joint_norm.update(veto)
        for engine in self.trained.values():
            for group in engine.optimizer.param_groups:
                group["lr"] = group["peak_rate"] * rate_factor
            engine.step()
        applied = {engine.was_step_applied() for engine in self.trained.values()}
        assert len(applied) == 1, "the engines disagree about a step"
        if applied == {False}:
            for engine in self.trained.values():
                discard_gradients(engine.optimizer)
        if self._average and applied == {True}:
            self._average.update()
        return StepResult(applied.pop(), joint, own[0] if self._mllm_is_trained else 0.0, own[-1])

    @property
    def averages_of(self) -> Callable[[Any], list[Tensor]] | None:
        """Gives the moving averages that belong to an optimizer; None if none are kept."""
        return self._average.of if self._average else None

    @property
    def average_updates(self) -> int:
        """Steps that the moving average has taken in."""
        return self._average.updates if self._average else 0

    @average_updates.setter
    def average_updates(self, updates: int) -> None:
        if self._average:
            self._average.updates = updates

    def buffers(self) -> dict[str, Tensor]:
        """What the segmentation side holds besides parameters, such as statistics."""
        module = self.segmentation.module
        parameters = dict(module.named_parameters())
        return {
            f"segmentation/{name}": value
            for name, value in module.state_dict().items()
            if name not in parameters
        }

    def restore_buffers(self, stored: Mapping[str, np.ndarray]) -> None:
        """Take over buffers by the names of :meth:`buffers`."""
        for name, buffer in self.buffers().items():
            buffer.copy_(torch.from_numpy(stored[name].copy()).reshape(buffer.shape))

    def averaged(self) -> AbstractContextManager[None]:
        """Within this context the weights are their moving average, if one is kept (EMA)."""
        return self._average.applied() if self._average else nullcontext()


def mllm_groups(mllm: Mllm, settings: Settings) -> list[dict[str, Any]]:
    """Parameter groups of the language model."""
    return _groups(mllm.parameters(), settings.learning_rate, settings)


def segmentation_groups(branch: SegmentationBranch, settings: Settings) -> list[dict[str, Any]]:
    """Parameter groups of the segmentation side: the encoder, and what stands behind it."""
    encoder = {id(p) for p in branch.image_encoder.parameters()}
    behind = [p for p in branch.parameters() if id(p) not in encoder]
    return [
        *_groups(
            branch.image_encoder.parameters(),
            settings.encoder_learning_rate or settings.learning_rate,
            settings,
        ),
        *_groups(behind, settings.decoder_learning_rate or settings.learning_rate, settings),
    ]


def _groups(
    parameters: Iterable[nn.Parameter], rate: float, settings: Settings
) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    vectors = [p for p in trained if p.ndim < 2]
    return [
        {"params": members, "weight_decay": decay, "lr": rate, "peak_rate": rate}
        for members, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        if members
    ]


def _initialize(module: nn.Module, groups: list[dict[str, Any]], config: dict[str, Any]) -> Any:
    # In bf16, stage 1 prints how much memory is used, many times.
    with redirect_stdout(StringIO()):
        if is_partitioned(config):
            partition(module, config)
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=torch.optim.AdamW(groups),
            config=config,
            dist_init_required=False,
        )
    return engine


def _without_training(mllm: Mllm, config: dict[str, Any], device: torch.device) -> Any:
    """The language model for forward passes only: partitioned under ZeRO-3, else as it is."""
    if is_partitioned(config):
        partition(mllm, config)
        engine, *_ = deepspeed.initialize(model=mllm, config=config, dist_init_required=False)
        return engine
    return mllm.use_one_precision().to(device)
