"""One training step on the meta device, operation by operation, for any size of the micro-batch.

Every cost of every operation is a constant plus a multiple of the number of units (samples, or
images with all their questions) in the micro-batch. So two traces give all others exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prs_med.batch import Batch, Packing
from prs_med.config import Settings
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from prs_med.plan.alike_layers import Stack, numbered, skipping, unfolded
from prs_med.plan.gpu_attention import gpu_attention
from prs_med.plan.meta_model import MetaModel
from prs_med.plan.op_trace import OpRecorder, OpTrace, Part, Phase, tensors_in

_TRACED = (2, 3)
"""Sizes of the traced micro-batches. Not 1: there, some tensors are laid out differently."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest sequence of a micro-batch."""

    image: int
    prompt_text: int
    """Of template and question."""
    answer: int
    """With the end token."""
    questions_per_image: int = 1

    @property
    def prompt(self) -> int:
        """What the mask decoder sees."""
        return self.image + self.prompt_text

    @property
    def total(self) -> int:
        """What the language model sees."""
        return self.prompt + self.answer

    @property
    def shared(self) -> int:
        """What it sees of all questions of an image in one sequence. The template's tokens in
        front of a question are shared too, but are not known apart from it here."""
        return self.image + self.questions_per_image * (self.prompt_text + self.answer)


@dataclass(frozen=True)
class StepCosts:
    """What one forward and backward pass of a micro-batch costs, operation by operation."""

    first: OpTrace
    """Of a micro-batch of 2."""
    second: OpTrace
    """Of 3."""
    _peaks: dict[int, dict[Part, float]] = field(default_factory=dict, repr=False, compare=False)
    """By size of the micro-batch: every candidate that computes the same asks for the same few."""

    def flops(self, batch: int) -> np.ndarray:
        """FLOPs of each operation."""
        return self._at(self.first.flops, self.second.flops, batch)

    def moved(self, batch: int) -> np.ndarray:
        """Bytes that each operation moves."""
        return self._at(self.first.moved, self.second.moved, batch)

    def peak(self, batch: int) -> Mapping[Part, float]:
        """Bytes that each part holds at the moment at which all parts together hold most."""
        if batch not in self._peaks:
            live = self._at(self.first.live, self.second.live, batch)
            worst = live[live.sum(1).argmax()]
            self._peaks[batch] = {part: float(worst[part]) for part in Part}
        return self._peaks[batch]

    def flops_by(self, batch: int) -> dict[Part, dict[Phase, float]]:
        """FLOPs of each part and phase."""
        flops = self.flops(batch)
        return {
            part: {
                phase: float(flops[(self.first.part == part) & (self.first.phase == phase)].sum())
                for phase in Phase
            }
            for part in Part
            if part is not Part.BACKWARD
        }

    def kernels(self) -> int:
        """Operations: each starts a kernel at least."""
        return len(self.first.part)

    @staticmethod
    def _at(first: np.ndarray, second: np.ndarray, batch: int) -> np.ndarray:
        result: np.ndarray = np.maximum(first + (second - first) * (batch - _TRACED[0]), 0)
        return result


def step_costs(model: MetaModel, lengths: Lengths) -> StepCosts:
    """Trace a step of the model as its settings say, on a GPU's attention kernels."""
    first, second = (
        _trace_of_few_layers(model, meta_batch(model, lengths, units, torch.device("meta")))
        for units in _TRACED
    )
    assert first.same_operations(second), "a step depends on the size of the micro-batch"
    return StepCosts(first, second)


def meta_batch(model: MetaModel, lengths: Lengths, units: int, device: torch.device) -> Batch:
    """A micro-batch of this size, with nothing in particular in it."""
    by_image, shares = model.settings.batch_by_image, model.settings.share_image_prefix
    samples = units * (lengths.questions_per_image if by_image else 1)
    side, clip = model.settings.image_size, model.clip_side
    prompt = lengths.total if model.settings.prompt_tokens == "all" else lengths.prompt

    sequences = (units, lengths.shared) if shares else (samples, lengths.total)

    def integers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    packing = Packing(
        position_ids=integers(*sequences),
        segments=integers(*sequences),
        image_index=integers(units),
        prompt_index=integers(samples, prompt),
    )
    return Batch(
        image_vlm=integers(units, 3, clip, clip, dtype=torch.uint8),
        image_seg=integers(units, 3, side, side, dtype=torch.uint8),
        image_index=integers(samples) if by_image else None,
        mask=integers(samples, 1, side, side, dtype=torch.uint8),
        input_ids=integers(*sequences),
        attention_mask=integers(*sequences, dtype=torch.bool),
        prompt_mask=integers(samples, prompt, dtype=torch.bool),
        label_index=integers(samples * lengths.answer),
        labels=integers(samples * lengths.answer),
        label_sample=integers(samples * lengths.answer),
        modality=integers(samples),
        weight=integers(samples, dtype=torch.float32),
        row_ids=("",) * samples,
        packing=packing if shares else None,
    )


def trace_step(model: MetaModel, batch: Batch, on_gpu: bool = True) -> OpTrace:
    """Forward pass, losses and backward pass of one micro-batch.

    Args:
        on_gpu: with a GPU's attention kernels; else with those of the tensors' device.
    """
    return _trace(model, batch, on_gpu, ())


def _trace_of_few_layers(model: MetaModel, batch: Batch) -> OpTrace:
    """As :func:`trace_step`, but of layers that are alike only a few run."""
    stacks = _stacks(model)
    trace = unfolded(_trace(model, batch, True, stacks), stacks)
    return trace_step(model, batch) if trace is None else trace


def _stacks(model: MetaModel) -> tuple[Stack, ...]:
    """The layers of the language model, and of the CLIP tower."""
    llava = model.mllm.llava
    found = [Stack.of(llava.model.language_model.layers)]
    # Features of the last layers; others would be held while the rest of the layers run.
    if llava.config.vision_feature_layer in (-1, -2):
        found.append(Stack.of(llava.model.vision_tower.encoder.layers))
    return tuple(stack for stack in found if stack is not None)


def _trace(model: MetaModel, batch: Batch, on_gpu: bool, stacks: Sequence[Stack]) -> OpTrace:
    """``stacks``: layers of which only a few run; the others hand on what they get."""
    modules = (model.mllm, model.segmentation)
    known = [tensor for module in modules for tensor in _tensors_of(module)]
    records = [batch] if batch.packing is None else [batch, batch.packing]
    known += [v for record in records for v in vars(record).values() if isinstance(v, Tensor)]
    recorder = OpRecorder(known)
    with ExitStack() as contexts:
        for part, module in _parts(model):
            contexts.enter_context(_attributed(module, part, recorder))
        for module in modules:
            contexts.enter_context(_dropping_gradients(module))
        contexts.enter_context(skipping(stacks))
        contexts.enter_context(numbered(stacks, recorder))
        if on_gpu:
            contexts.enter_context(gpu_attention())
        contexts.enter_context(_AttributedBackward(recorder))
        contexts.enter_context(recorder)
        _run(model, batch, recorder)
    return recorder.trace()


def _run(model: MetaModel, batch: Batch, recorder: OpRecorder) -> None:
    settings = model.settings

    def mllm(*inputs: Tensor) -> Any:
        frozen = torch.no_grad() if not model.trains_mllm else nullcontext()
        with frozen, recorder.part(Part.LANGUAGE_MODEL):
            return model.mllm(*inputs)

    outputs = forward(mllm, model.segmentation, batch)
    with recorder.part(Part.LOSSES):
        loss = _loss(outputs, batch, settings)
    recorder.in_backward = True
    loss.backward()


def _loss(outputs: Any, batch: Batch, settings: Settings) -> Tensor:
    return loss_terms(outputs, batch, settings).total(settings, 0.0, batch)


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _parts(model: MetaModel) -> Iterable[tuple[Part, nn.Module]]:
    llava, branch = model.mllm.llava, model.segmentation
    yield Part.CLIP, llava.model.vision_tower
    yield Part.CLIP, llava.model.multi_modal_projector
    yield Part.LM_HEAD, llava.lm_head
    yield Part.ENCODER, branch.image_encoder
    yield Part.DECODER, branch.mask_decoder
    yield Part.DECODER, branch.cls


@contextmanager
def _attributed(module: nn.Module, part: Part, recorder: OpRecorder) -> Iterator[None]:
    """Count what happens in a module's forward pass to a part."""
    before = module.register_forward_pre_hook(lambda *_: recorder.enter(part))
    # Always: where checkpointing recomputes, it leaves by an exception when it has what it needs.
    after = module.register_forward_hook(lambda *_: recorder.leave(), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@contextmanager
def _dropping_gradients(module: nn.Module) -> Iterator[None]:
    """Free each parameter's gradient at once: DeepSpeed moves it into buffers of its own."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(drop)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _AttributedBackward(TorchFunctionMode):
    """Count the backward pass of every function to the part and layer that called it forward."""

    def __init__(self, recorder: OpRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        nodes = [tensor.grad_fn for tensor in tensors_in(result) if tensor.grad_fn is not None]
        for node in nodes:
            node.register_prehook(self._setter(self._recorder.now, self._recorder.layer_now))
        return result

    def _setter(self, part: Part, layer: int) -> Callable[..., None]:
        def set_both(*_: Any) -> None:
            self._recorder.part_in_backward = part
            self._recorder.layer_in_backward = layer

        return set_both
