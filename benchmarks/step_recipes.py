"""The computations that benchmarks/step.py compares: forward and backward pass of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step_model import ModelSource
from prs_med.batch import Batch
from prs_med.model.compiled import compile_regions
from prs_med.model.losses import modality_loss, structure_loss, text_loss
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

    Written plainly, and without the older programs' mistakes: it minimises what :func:`one_pass`
    does, and its gradients are the same apart from rounding.
    """
    settings = model.settings
    _, logits = _all_logits(model, batch)
    chosen = logits.flatten(0, 1).index_select(0, batch.label_index)
    each = text_loss(chosen, batch.labels, batch.label_sample, len(batch))
    text = settings.lambda_txt * weighted_mean(each, batch)
    mark("losses")
    text.backward()
    mark("LM backward")
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
    channels_last: bool = False
    """Of the segmentation encoder's weights."""
    segmentation_precision: str = "fp32"
    """As in --segmentation_precision."""
    questions: int = 1
    """About each image."""
    shares: bool = False
    """Whether they share their image's prefix."""


EVERYTHING = Recipe(
    compiled=("encoder", "decoder", "language_model"),
    channels_last=True,
    segmentation_precision="bf16",
)
RECIPES = {
    "two_pass": Recipe(two_pass),
    "ours": Recipe(),
    "gradient_checkpointing": Recipe(gradient_checkpointing=True),
    "encoder_checkpointing": Recipe(encoder_checkpointing=True),
    "both": Recipe(gradient_checkpointing=True, encoder_checkpointing=True),
    "tf32": Recipe(segmentation_precision="tf32"),
    "segmentation_bf16": Recipe(segmentation_precision="bf16"),
    "channels_last": Recipe(channels_last=True),
    "compiled": Recipe(compiled=EVERYTHING.compiled),
    "all": EVERYTHING,
    "by_image": Recipe(questions=3),
    "shared_prefix": Recipe(questions=3, shares=True),
    "all_shared": replace(EVERYTHING, questions=3, shares=True),
}
"""By name. The older recipe computes an image again for each question, so it is the baseline of
those with 3 questions about each image, too."""
SAME_COUNTS = (
    "tf32", "segmentation_bf16", "channels_last", "compiled", "all", "all_shared",
)  # fmt: skip
"""Those that compute the same operations as others, in another way."""


class Variant:
    """A recipe with its model, around a language model that others share."""

    def __init__(self, recipe: Recipe, models: ModelSource) -> None:
        self.recipe = recipe
        by_image = {"data": "none", "batch_by_image": True} if recipe.questions > 1 else {}
        self.model = models.model(**by_image)
        branch = self.model.segmentation
        if recipe.encoder_checkpointing:
            branch.recompute_encoder()
        if recipe.segmentation_precision == "bf16":
            branch.compute_in_bf16()
        if recipe.channels_last:
            branch.image_encoder.to(memory_format=torch.channels_last)
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
        language_model = self.model.mllm.llava.model.language_model
        precision = torch.get_float32_matmul_precision()
        if self.recipe.segmentation_precision == "tf32":
            torch.set_float32_matmul_precision("high")
        if self.recipe.gradient_checkpointing:
            language_model.gradient_checkpointing_enable({"use_reentrant": False})
        self._use(self._compiled)
        try:
            return self.recipe.step(self.model, batch, mark)
        finally:
            self._use([None] * len(self._compiled))
            if self.recipe.gradient_checkpointing:
                language_model.gradient_checkpointing_disable()
            torch.set_float32_matmul_precision(precision)

    @property
    def _layers(self) -> list[nn.Module]:
        return list(self.model.mllm.llava.model.language_model.layers)

    def _use(self, calls: list[Any]) -> None:
        for layer, call in zip(self._layers, calls, strict=True):
            layer._compiled_call_impl = call
