"""How many parameters each part has, how many of them are trained, and in what sizes they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from prs_med.plan.meta_model import MetaModel


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part."""

    name: str
    total: int
    trained: int


@dataclass(frozen=True)
class ParameterList:
    """Parameters that one engine holds: numbers of elements, one entry for each tensor."""

    frozen: tuple[int, ...]
    trained_matrices: tuple[int, ...]
    """Two dimensions or more: they have weight decay and so an optimizer group of their own."""
    trained_vectors: tuple[int, ...]

    @property
    def trained(self) -> tuple[int, ...]:
        """All that are trained."""
        return self.trained_matrices + self.trained_vectors

    @property
    def all(self) -> tuple[int, ...]:
        """All."""
        return self.frozen + self.trained


@dataclass(frozen=True)
class ModelCounts:
    """The whole model in numbers."""

    parts: tuple[PartCount, ...]
    mllm: ParameterList
    """Without :attr:`quantisable`."""
    quantisable: tuple[tuple[int, int], ...]
    """Rows and columns of each linear layer that ``--load_4bit`` and ``--load_8bit`` quantise."""
    segmentation_groups: tuple[ParameterList, ...]
    """Encoder, and what stands behind it: each has optimizer groups of its own."""
    buffers: int
    """Elements of what the segmentation side holds besides parameters, such as statistics."""

    @property
    def trained(self) -> int:
        """Parameters that have a master copy and moments."""
        return sum(part.trained for part in self.parts)

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(part.total for part in self.parts)


def model_counts(model: MetaModel) -> ModelCounts:
    """Count the parameters of the real modules."""
    llava, branch = model.mllm.llava, model.segmentation
    language = llava.model.language_model
    linears = [
        module.weight
        for name, module in language.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]
    chosen = {id(weight) for weight in linears}
    rest = [p for p in model.mllm.parameters() if id(p) not in chosen]
    behind = [*branch.mask_decoder.parameters(), *branch.cls.parameters()]
    return ModelCounts(
        parts=(
            _part("CLIP tower", llava.model.vision_tower.parameters()),
            _part("projector", llava.model.multi_modal_projector.parameters()),
            _part("language model", _without_lora(language)),
            _part("LM head", llava.lm_head.parameters()),
            _part("LoRA", _lora(language)),
            _part("encoder", branch.image_encoder.parameters()),
            _part("mask decoder", branch.mask_decoder.parameters()),
            _part("modality head", branch.cls.parameters()),
        ),
        mllm=_listed(rest),
        quantisable=tuple((weight.shape[0], weight.shape[1]) for weight in linears),
        segmentation_groups=(_listed(branch.image_encoder.parameters()), _listed(behind)),
        buffers=sum(buffer.numel() for buffer in branch.buffers()),
    )


def _without_lora(module: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in module.named_parameters() if "lora_" not in name]


def _lora(module: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in module.named_parameters() if "lora_" in name]


def _part(name: str, parameters: Iterable[nn.Parameter]) -> PartCount:
    every = list(parameters)
    trained = sum(p.numel() for p in every if p.requires_grad)
    return PartCount(name, sum(p.numel() for p in every), trained)


def _listed(parameters: Iterable[nn.Parameter]) -> ParameterList:
    every = list(parameters)
    return ParameterList(
        frozen=tuple(p.numel() for p in every if not p.requires_grad),
        trained_matrices=tuple(p.numel() for p in every if p.requires_grad and p.ndim >= 2),
        trained_vectors=tuple(p.numel() for p in every if p.requires_grad and p.ndim < 2),
    )
