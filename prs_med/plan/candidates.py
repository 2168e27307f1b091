"""The ways to run the same training: DeepSpeed configuration, base in 4 bits, checkpointing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prs_med.config import Settings
from prs_med.plan.checkpointing import Checkpointing, ways
from prs_med.plan.communication import Communication, communication
from prs_med.plan.hardware import Cluster
from prs_med.plan.memory import MemoryModel
from prs_med.plan.meta_model import meta_model
from prs_med.plan.model_counts import ModelCounts, model_counts
from prs_med.plan.ranges import Range
from prs_med.plan.step_time import StepTime, step_time
from prs_med.plan.step_trace import Lengths, StepCosts, step_costs
from prs_med.plan.zero_settings import ZeroSettings, zero_settings
from prs_med.plan_config import PlanSettings


@dataclass(frozen=True)
class Workload:
    """What every candidate computes."""

    counts: ModelCounts
    costs: Mapping[Checkpointing, StepCosts]
    """Of a micro-batch, by what is computed again."""
    lengths: Lengths


def workload(settings: Settings, plan: PlanSettings) -> Workload:
    """Build and trace the model.

    Raises:
        SettingError, CheckpointError: the settings describe no model.
    """
    traces, counts, lengths = {}, None, None
    for checkpointing in ways(settings):
        model = meta_model(checkpointing.applied_to(settings), plan.encoder_size)
        counts = counts or model_counts(model)
        lengths = lengths or Lengths(
            model.image_tokens,
            plan.prompt_text_tokens,
            plan.answer_tokens,
            plan.questions_per_image,
        )
        traces[checkpointing] = step_costs(model, lengths)
    assert counts
    assert lengths
    return Workload(counts, traces, lengths)


@dataclass(frozen=True)
class Candidate:
    """One way to train."""

    settings: Settings
    """Those of the user, with this candidate's base and checkpointing."""
    zero: ZeroSettings
    work: Workload
    plan: PlanSettings

    @property
    def costs(self) -> StepCosts:
        """Of a micro-batch."""
        return self.work.costs[self.checkpointing]

    @property
    def checkpointing(self) -> Checkpointing:
        """What is computed again."""
        return Checkpointing.of(self.settings)

    @property
    def base(self) -> str:
        """How the frozen base is stored."""
        if self.settings.load_4bit:
            return "nf4"
        return "int8" if self.settings.load_8bit else self.settings.precision

    def samples(self, batch: int) -> int:
        """Samples of one process in an optimizer step."""
        each = self.plan.questions_per_image if self.settings.batch_by_image else 1
        return batch * each * self.settings.gradient_accumulation_steps

    def memory(self, processes: int) -> MemoryModel:
        """As a function of the micro-batch."""
        return MemoryModel(
            self.work.counts, self.costs, self.settings, self.zero, self.plan, processes
        )

    def largest_batch(self, memory: float, processes: int) -> int:
        """Most units in a micro-batch that fit into ``memory`` bytes; 0 if none do."""
        return self.memory(processes).largest_batch(memory)

    def communication(self, processes: int) -> Communication:
        """Of an optimizer step."""
        return communication(
            self.work.counts,
            self.memory(processes).gathered(),
            self.settings,
            self.zero,
        )

    def step(self, batch: int, cluster: Cluster) -> StepTime:
        """Seconds of an optimizer step."""
        memory = self.memory(cluster.gpus)
        return step_time(
            self.costs,
            batch,
            self.settings,
            self.zero,
            cluster,
            self.communication(cluster.gpus),
            memory.shares(),
            self.work.counts.quantisable,
            memory.gathered()[0] if self.zero.offload_parameters else 0.0,
        )

    def speed(self, batch: int, cluster: Cluster) -> Range:
        """Samples/s of all GPUs together, if samples come fast enough."""
        return self.step(batch, cluster).total.over(self.samples(batch) * cluster.gpus)


def candidates(
    settings: Settings, plan: PlanSettings, configs: Mapping[str, Mapping[str, Any]], work: Workload
) -> Iterator[Candidate]:
    """All that the configurations allow, the simplest first.

    Args:
        configs: by name, each completed by :func:`load_deepspeed_config`.
    """
    weight_bytes = 2 if settings.precision == "bf16" else 4
    for name, config in configs.items():
        zero = zero_settings(name, config, weight_bytes)
        for four_bits in (False, True):
            if four_bits and settings.finetune == "full":
                continue
            for checkpointing in ways(settings):
                variant = dataclasses.replace(
                    checkpointing.applied_to(settings),
                    load_4bit=four_bits,
                    load_8bit=settings.load_8bit and not four_bits,
                )
                if variant.load_8bit and zero.stage == 3:
                    continue
                yield Candidate(variant, zero, work, plan)
