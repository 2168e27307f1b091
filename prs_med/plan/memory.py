"""GPU memory of one process, by part, and the largest micro-batch that fits.

Weights, gradients, optimizer states and buffers follow from DeepSpeed's rules, activations from the
traced step. What PyTorch and CUDA need besides is an allowance, not a model; see
:class:`prs_med.plan_config.MachineSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from prs_med.config import Settings
from prs_med.plan.model_counts import ModelCounts, ParameterList
from prs_med.plan.op_trace import Part
from prs_med.plan.partitions import parameter_shares, persistent, trained_share
from prs_med.plan.quantised import (
    int8_bytes,
    largest_layer,
    nf4_bytes,
    nf4_scale_bytes,
)
from prs_med.plan.step_trace import StepCosts
from prs_med.plan.zero_settings import ZeroSettings
from prs_med.plan_config import MachineSettings

_FP32 = 4
_MOMENTS = 2
_SEGMENTATION_STAGE = 1
MOST_TRIED = 4096
"""No larger micro-batch is looked for."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the step's worst moment, by part."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryModel:
    """Memory as a function of the size of the micro-batch."""

    counts: ModelCounts
    costs: StepCosts
    settings: Settings
    zero: ZeroSettings
    machine: MachineSettings
    processes: int

    @property
    def weight_bytes(self) -> int:
        """Of one element of the language model's weights."""
        return 2 if self.settings.precision == "bf16" else _FP32

    def at(self, batch: int) -> Memory:
        """With so many units in a micro-batch."""
        peak = self.costs.peak(batch)
        activations = {
            f"activations: {part.title}": held
            for part, held in peak.items()
            if part is not Part.BACKWARD
        }
        passing = peak[Part.BACKWARD]
        lost = self.machine.fragmentation * (sum(activations.values()) + passing)
        parts = {
            **self._lasting,
            **activations,
            "activations: gradients": passing,
            "allowance: CUDA, NCCL, libraries": self.machine.reserve_gb * 1e9,
            "allowance: fragmentation": lost,
        }
        return Memory({name: size for name, size in parts.items() if size})

    def largest_batch(self, memory: float) -> int:
        """Most units in a micro-batch for which ``memory`` bytes are enough; 0 if none."""
        if self.at(1).total > memory:
            return 0
        fits, too_many = 1, 2
        while too_many <= MOST_TRIED and self.at(too_many).total <= memory:
            fits, too_many = too_many, 2 * too_many
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.at(middle).total <= memory:
                fits = middle
            else:
                too_many = middle
        return fits

    def host(self) -> float:
        """Bytes of the host's memory that one process needs: for what is offloaded and the copy
        that checkpoints are written from, or for the language model while it is loaded.

        bf16 files, as the published ones are, are mapped and take none; other weights are converted
        into a copy.
        """
        loading = 0
        if self.settings.precision != "bf16":
            loading = (sum(self.counts.mllm.all) + self._quantisable()) * self.weight_bytes
        offloaded = self._states() + self._state_bytes(self._segmentation_share())
        if self.zero.offload_optimizer:
            offloaded += self._states() + self._mllm_share() * _FP32
        if self.zero.offload_parameters:
            offloaded += self._weights_in_shares()
        return max(float(loading), offloaded)

    def shares(self) -> tuple[int, int]:
        """Elements that this process updates, of the language model and the segmentation side."""
        return self._mllm_share(), self._segmentation_share()

    def gathered(self) -> tuple[float, int]:
        """Bytes and number of the tensors that ZeRO-3 fetches to pass through the language model
        once."""
        sizes = [size for size in self._mllm_sizes() if size > self.zero.persistence]
        return sum(sizes) * self.weight_bytes, len(sizes)

    @cached_property
    def _lasting(self) -> Mapping[str, float]:
        """What is there whatever the size of the micro-batch."""
        segmentation = self.counts.segmentation_groups
        gpu_states = 0.0 if self.zero.offload_optimizer else self._states()
        return {
            "weights: language model": self._mllm_weights(),
            "weights: segmentation": _FP32
            * (sum(sum(group.all) for group in segmentation) + self.counts.buffers),
            "gradients: language model": self._mllm_gradients(),
            # Stage 1 keeps them whole, and copies its share into one vector before a step.
            "gradients: segmentation": _FP32
            * (sum(sum(g.trained) for g in segmentation) + self._segmentation_share()),
            "optimizer: language model": gpu_states,
            "optimizer: segmentation": self._state_bytes(self._segmentation_share()),
            "communication buffers": self._buffers(),
            "ZeRO-3: weights in use": self._live_weights(),
            "unpacked 4-bit or 8-bit layer": self._unpacked(),
        }

    def _quantised(self) -> bool:
        return self.settings.load_4bit or self.settings.load_8bit

    def _quantisable(self) -> int:
        return sum(rows * columns for rows, columns in self.counts.quantisable)

    def _mllm_weights(self) -> float:
        if self.zero.stage == 3:
            # Small parameters come whole, besides their shares.
            whole = persistent(self._mllm_sizes(), self.zero.persistence) * self.weight_bytes
            on_gpu = 0.0 if self.zero.offload_parameters else self._weights_in_shares()
            return on_gpu + whole + self._scales()
        return sum(self.counts.mllm.all) * self.weight_bytes + self._packed() + self._scales()

    def _packed(self) -> int:
        """Of the linear layers as they are stored, without scales."""
        if self.settings.load_4bit:
            return nf4_bytes(self.counts.quantisable)
        if self.settings.load_8bit:
            return int8_bytes(self.counts.quantisable)
        return self._quantisable() * self.weight_bytes

    def _scales(self) -> int:
        return nf4_scale_bytes(self.counts.quantisable) if self.settings.load_4bit else 0

    def _mllm_sizes(self) -> list[int]:
        """Elements of each stored tensor of the language model: packed ones are fewer."""
        share = self._packed() / (self._quantisable() * self.weight_bytes) if self._packed() else 1
        linears = [int(share * rows * columns) for rows, columns in self.counts.quantisable]
        return [*self.counts.mllm.all, *linears]

    def _weights_in_shares(self) -> float:
        return parameter_shares(self._mllm_sizes(), self.processes) * self.weight_bytes

    def _mllm_trained(self) -> ParameterList:
        """What is trained of the language model, its linear layers included (full fine-tuning)."""
        linears = () if self.settings.finetune == "lora" else self.counts.quantisable
        matrices = tuple(rows * columns for rows, columns in linears)
        known = self.counts.mllm
        return ParameterList((), known.trained_matrices + matrices, known.trained_vectors)

    def _mllm_share(self) -> int:
        return trained_share(self._mllm_trained(), self.zero.stage, self.processes)

    def _segmentation_share(self) -> int:
        return sum(
            trained_share(group, _SEGMENTATION_STAGE, self.processes)
            for group in self.counts.segmentation_groups
        )

    def _states(self) -> float:
        return self._state_bytes(self._mllm_share())

    def _state_bytes(self, share: int) -> float:
        """fp32 masters and AdamW's two moments, and the moving average if one is kept."""
        copies = 1 + _MOMENTS + bool(self.settings.ema_decay)
        return share * _FP32 * copies

    def _mllm_gradients(self) -> float:
        trained = sum(self._mllm_trained().trained)
        if self.zero.stage == 1:
            return trained * self.zero.gradient_bytes
        return 0.0 if self.zero.offload_optimizer else self._mllm_share() * self.zero.gradient_bytes

    def _buffers(self) -> float:
        mllm = self.zero.buckets * self.zero.reduce_bucket * self.weight_bytes
        if not sum(self._mllm_trained().trained):
            mllm = 0
        return mllm + self.zero.reduce_bucket * _FP32

    def _live_weights(self) -> float:
        """Weights that are whole at a time: DeepSpeed keeps those that it will soon need again, as
        many as ``stage3_max_live_parameters`` allows, and fetches the next ones."""
        if self.zero.stage != 3:
            return 0.0
        most = (self.zero.max_live + self.zero.prefetch) * self.weight_bytes
        return min(self.gathered()[0], most)

    def _unpacked(self) -> float:
        if not self._quantised():
            return 0.0
        return largest_layer(self.counts.quantisable) * self.weight_bytes
