"""The computations that benchmarks/step.py compares: forward and backward pass of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.liger import liger_kernels
from benchmarks.step_model import ModelSource
from prs_med.batch import Batch
from prs_med.model import losses
from prs_med.model.compiled import compile_regions
from prs_med.model.encoders.tinyvit import ConvNorm
from prs_med.model.losses import WINDOW, modality_loss, structure_loss, text_loss
from prs_med.model.mllm import drop_gradients_of_inputs
from prs_med.model.objective import loss_terms, weighted_mean
from prs_med.model.prs_med import forward
from prs_med.plan.meta_model import MetaModel

Mark = Callable[[str], None]
"""Told the name of what has just ended."""
Step = Callable[[MetaModel, Batch, Mark], Tensor]
"""Leaves gradients in the trained parameters; gives the loss."""


def two_pass(model: MetaModel, batch: Batch, mark: Mark) -> Tensor:
    """The older recipe: a pass of the language model for the text and one more for the mask's
    prompt, both with the logits of all positions in fp32, each followed by its backward pass.

    As there, all of it computes in autocast to the language model's precision, so that the fp32
    weights of the segmentation side are cast in each step. Written plainly, and without the older
    programs' mistakes: it minimises what :func:`one_pass` does, and its gradients are the same
    apart from rounding.
    """
    settings = model.settings
    arithmetic = _autocast(model)
    with arithmetic:
        _, logits = _all_logits(model, batch)
    chosen = logits.flatten(0, 1).index_select(0, batch.label_index)
    each = text_loss(chosen, batch.labels, batch.label_sample, len(batch))
    text = settings.lambda_txt * weighted_mean(each, batch)
    mark("losses")
    text.backward()
    mark("LM backward")
    with arithmetic:
        hidden, _ = _all_logits(model, batch)
        prompt = hidden[:, : batch.prompt_mask.shape[1]].float()
        size = (batch.mask.shape[-2], batch.mask.shape[-1])
        masks, modality = model.segmentation(
            batch.image_seg, prompt, batch.prompt_mask, size, batch.image_index
        )
    of_mask = settings.lambda_seg * structure_loss(masks, batch.mask.float())
    of_class = settings.cls_loss_weight * modality_loss(modality, batch.modality)
    rest = weighted_mean(of_mask + of_class, batch)
    mark("losses")
    rest.backward()
    mark("LM backward")
    return text.detach() + rest.detach()


def _autocast(model: MetaModel) -> AbstractContextManager[object]:
    device = model.mllm.llava.device.type
    # Autocast does not know the meta device, on which nothing but costs is wanted.
    if model.settings.precision != "bf16" or device == "meta":
        return nullcontext()
    return torch.autocast(device, torch.bfloat16)


def _all_logits(model: MetaModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden states and float32 logits of all positions, by transformers' forward pass and with a
    padding mask."""
    llava = model.mllm.llava
    embeddings = model.mllm.embed(batch.input_ids, batch.image_vlm, batch.image_index)
    hidden: Tensor = llava.model.language_model(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask.long(), use_cache=False
    ).last_hidden_state
    return hidden, llava.lm_head(hidden).float()


def one_pass(model: MetaModel, batch: Batch, mark: Mark) -> Tensor:
    """Ours, as training computes it."""
    terms = loss_terms(forward(model.mllm, model.segmentation, batch), batch, model.settings)
    loss = terms.total(model.settings, 0.0, batch)
    mark("losses")
    loss.backward()
    mark("LM backward")
    return loss.detach()


@dataclass(frozen=True)
class Recipe:
    """A step, and how its model is set up."""

    step: Step = one_pass
    gradient_checkpointing: bool = False
    encoder_checkpointing: bool = False
    compiled: tuple[str, ...] = ()
    """Regions, as in --compile_regions."""
    channels_first: bool = False
    """In memory, in the segmentation encoder."""
    segmentation_precision: str = "fp32"
    """As in --segmentation_precision."""
    nf4: bool = False
    """As --load_4bit."""
    liger: bool = False
    """Liger's kernels for norms, rotary embeddings and activations of the language model."""
    square_window: bool = False
    """Boundary weights from one mean over 31 x 31 pixels, not from two over 31."""
    separate_norms: bool = False
    """The encoder's convolutions and norms one after the other."""
    attention_weights: bool = False
    """The decoder's attention to the prompt as a product of matrices that are kept, not fused."""
    fused_adamw: bool = True
    questions: int = 1
    """About each image."""
    shares: bool = False
    """Whether they share their image's prefix."""


EVERYTHING = Recipe(
    compiled=("encoder", "decoder", "language_model"),
    segmentation_precision="bf16",
)
FAST = Recipe(liger=True, segmentation_precision="bf16")
RECIPES = {
    "two_pass": Recipe(
        two_pass,
        square_window=True,
        separate_norms=True,
        attention_weights=True,
        channels_first=True,
    ),
    "ours": Recipe(),
    "square_window": Recipe(square_window=True),
    "separate_norms": Recipe(separate_norms=True),
    "attention_weights": Recipe(attention_weights=True),
    "unfused_adamw": Recipe(fused_adamw=False),
    "gradient_checkpointing": Recipe(gradient_checkpointing=True),
    "encoder_checkpointing": Recipe(encoder_checkpointing=True),
    "both": Recipe(gradient_checkpointing=True, encoder_checkpointing=True),
    "tf32": Recipe(segmentation_precision="tf32"),
    "segmentation_bf16": Recipe(segmentation_precision="bf16"),
    "channels_first": Recipe(channels_first=True),
    "channels_first_fast": replace(FAST, channels_first=True),
    "liger": Recipe(liger=True),
    "compiled_lm": Recipe(compiled=("language_model",)),
    "fast": FAST,
    "compiled_lm_bf16": Recipe(compiled=("language_model",), segmentation_precision="bf16"),
    "compiled": Recipe(compiled=EVERYTHING.compiled),
    "fast_compiled": replace(FAST, compiled=("encoder", "decoder")),
    "all": EVERYTHING,
    "all_checkpointing": replace(
        EVERYTHING, gradient_checkpointing=True, encoder_checkpointing=True
    ),
    "nf4": Recipe(nf4=True),
    "nf4_all": replace(EVERYTHING, nf4=True),
    "nf4_all_checkpointing": replace(
        EVERYTHING, nf4=True, gradient_checkpointing=True, encoder_checkpointing=True
    ),
    "by_image": Recipe(questions=3),
    "shared_prefix": Recipe(questions=3, shares=True),
    "by_image_fast": replace(FAST, questions=3),
    "shared_prefix_fast": replace(FAST, questions=3, shares=True),
    "all_shared": replace(EVERYTHING, questions=3, shares=True),
}
"""By name. The older recipe computes an image again for each question, so it is the baseline of
those with 3 questions about each image, too."""
SAME_COUNTS = (
    "square_window", "unfused_adamw", "tf32", "segmentation_bf16", "channels_first",
    "channels_first_fast", "liger", "fast", "compiled_lm", "compiled_lm_bf16", "compiled",
    "fast_compiled", "all", "all_checkpointing", "nf4", "nf4_all",
    "nf4_all_checkpointing", "by_image_fast", "shared_prefix_fast", "all_shared",
)  # fmt: skip
"""Those that compute the same operations as others, in another way."""
OTHER_ARITHMETIC = ("tf32", "segmentation_bf16")
"""Those of them that differ in the rate at which a card computes some of these operations."""


class Variant:
    """A recipe with its model, around a language model that others share."""

    def __init__(self, recipe: Recipe, models: ModelSource) -> None:
        self.recipe = recipe
        by_image = {"data": "none", "batch_by_image": True} if recipe.questions > 1 else {}
        self.model = models.model(recipe.nf4, **by_image)
        branch = self.model.segmentation
        if recipe.attention_weights:
            attend = branch.mask_decoder.attn
            attend.forward = _with_weights(attend.forward)
        if recipe.encoder_checkpointing:
            branch.recompute_encoder()
        if recipe.segmentation_precision == "bf16":
            branch.compute_in_bf16()
        if recipe.channels_first:
            branch.image_encoder.memory_format = torch.contiguous_format
        compile_regions(self.model.mllm, branch, recipe.compiled)
        # Of the shared layers only while this recipe runs.
        self._compiled = [layer._compiled_call_impl for layer in self._layers]
        self._use([None] * len(self._compiled))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Frozen ones too."""
        yield from self.model.mllm.parameters()
        yield from self.model.segmentation.parameters()

    def run(self, batch: Batch, mark: Mark = lambda name: None) -> Tensor:
        """Forward and backward pass; the loss."""
        with ExitStack() as stack:
            self._set_up(stack)
            return self.recipe.step(self.model, batch, mark)

    def _set_up(self, stack: ExitStack) -> None:
        """What is not this recipe's own, until the stack is closed."""
        recipe, language_model = self.recipe, self.model.mllm.llava.model.language_model
        if recipe.segmentation_precision == "tf32":
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        if recipe.gradient_checkpointing:
            stack.callback(language_model.gradient_checkpointing_disable)
            language_model.gradient_checkpointing_enable({"use_reentrant": False})
            drop_gradients_of_inputs(self.model.mllm.llava)
        if recipe.square_window:
            stack.enter_context(patch.object(losses, "box_mean", square_mean))
        if recipe.separate_norms:
            stack.enter_context(patch.object(ConvNorm, "forward", nn.Sequential.forward))
        if recipe.liger:
            stack.enter_context(liger_kernels(self.model.mllm))
        stack.callback(self._use, [None] * len(self._compiled))
        self._use(self._compiled)

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.model.mllm.llava.model.language_model.layers)

    def _use(self, calls: list[Any]) -> None:
        for layer, call in zip(self._layers, calls, strict=True):
            layer._compiled_call_impl = call


def _with_weights(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *inputs, **options: forward(*inputs, **{**options, "need_weights": True})


square_mean = partial(F.avg_pool2d, kernel_size=WINDOW, stride=1, padding=WINDOW // 2)
"""What :func:`prs_med.model.losses.box_mean` computes, in one pass over 961 pixels each."""
