"""Models with random weights, and batches for them, that the benchmarks of a training step time."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from prs_med.batch import IMAGE_TOKEN, Batch
from prs_med.config import ModelSettings, Settings
from prs_med.data.collate import Collator
from prs_med.data.phantoms import QUESTIONS
from prs_med.data.prompt import EncodedText
from prs_med.data.samples import Sample
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.initial_weights import new_segmentation
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import build_mllm, flops_per_token, make_trainable
from prs_med.model.tiny_encoders import write_tinysam
from prs_med.model.tiny_llava import TinyLlavaSize, write_llava_med
from prs_med.plan.meta_model import DTYPES, MetaModel, planned_layout
from prs_med.plan.published import published_encoder

PUBLISHED_SIDE, SMALL_SIDE = 1024, 256
"""Inputs of the segmentation encoder."""
CLIP_SIDE, IMAGE_TOKENS = 336, 576
TEMPLATE, QUESTION, ANSWER = 6, 53, 40
"""Tokens in front of a question, of it with what follows, and of its answer with the end token:
676 with the image's and the one at the start."""
SMALL = TinyLlavaSize(
    width=512,
    layers=6,
    heads=8,
    key_value_heads=2,
    feed_forward=1792,
    vision_width=128,
    vision_layers=2,
    image_size=CLIP_SIDE,
)
"""The language model has 90 % of the FLOPs of a step, as in the published model."""
CLASSES = ("a", "b")
META = torch.device("meta")


NO_DROPOUT = {"lora_dropout": 0.0, "decoder_dropout": 0.0}


class ModelSource:
    """Makes models that share a language model, each with a segmentation side of its own."""

    def __init__(self, device: torch.device, folder: Path, *, small: bool) -> None:
        """Small ones, whose files are written to ``folder``, or published ones. All of them start
        with the same weights."""
        self.device, self._folder, self._small = device, folder, small
        self._shared: dict[bool, MetaModel] = {}

    @property
    def side(self) -> int:
        """Of the segmentation encoder's input, in pixels."""
        return SMALL_SIDE if self._small else PUBLISHED_SIDE

    @property
    def precision(self) -> str:
        """Of the language model's matrix products."""
        return "fp32" if self._small else "bf16"

    def model(self, load_4bit: bool = False, **changes: object) -> MetaModel:
        """With these settings of a run, which do not change the language model."""
        if load_4bit not in self._shared:
            self._shared[load_4bit] = self._build(load_4bit)
        shared = self._shared[load_4bit]
        settings = dataclasses.replace(shared.settings, **changes)
        return MetaModel(shared.mllm, copy.deepcopy(shared.segmentation), settings)

    def layer_weights(self) -> int:
        """In the layers of the language model, LoRA aside."""
        layout = planned_layout(self.model().settings)
        return round(flops_per_token(layout, ModelSettings(vlm_path="any")) / 4)

    def _build(self, load_4bit: bool) -> MetaModel:
        torch.manual_seed(0)
        if self._small:
            made = small_model(self._folder, load_4bit=load_4bit, **NO_DROPOUT)
            made.mllm.to(self.device)
            made.segmentation.to(self.device)
            return made
        return published_model(self.device, load_4bit=load_4bit, **NO_DROPOUT)


def small_model(folder: Path, **changes: object) -> MetaModel:
    """For a CPU, in fp32: written and read as published weights are."""
    write_llava_med(folder / "llava_med", list(QUESTIONS), seed=0, size=SMALL)
    write_tinysam(folder / "tinysam.pth", seed=0)
    settings = Settings(
        vlm_path=str(folder / "llava_med"), image_size=SMALL_SIDE, precision="fp32", **changes
    )
    mllm = build_mllm(read_layout(settings.vlm_path), settings)
    encoder = load_encoder("tinysam", str(folder / "tinysam.pth"))
    return MetaModel(mllm, new_segmentation(encoder, settings, mllm.hidden_size, CLASSES), settings)


def published_model(device: torch.device, **changes: object) -> MetaModel:
    """LLaVA-Med v1.5 and TinySAM in their published sizes, with random weights, on a device."""
    settings = Settings(image_size=PUBLISHED_SIDE, **changes)
    layout = planned_layout(settings)
    with torch.device(device):
        llava = LlavaForConditionalGeneration._from_config(
            layout.config, dtype=DTYPES[settings.precision], attn_implementation="sdpa"
        )
        llava.requires_grad_(False)
        if settings.load_4bit:
            quantise(llava.model.language_model)
        mllm = make_trainable(llava, layout, settings)
        encoder = published_encoder(settings.encoder_type, None)
        branch = new_segmentation(encoder, settings, mllm.hidden_size, CLASSES)
    mllm = mllm if settings.load_4bit else mllm.use_one_precision()
    return MetaModel(mllm.to(device), branch.to(device), settings)


def quantise(language_model: nn.Module) -> None:
    """Replace linear layers by nf4 ones, as --load_4bit has them, one after another."""
    for module in list(language_model.modules()):
        for name, layer in list(module.named_children()):
            if not isinstance(layer, nn.Linear):
                continue
            packed = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=layer.weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            weight = layer.weight.data
            packed.weight = Params4bit(weight, requires_grad=False, quant_type="nf4").to(
                weight.device
            )
            setattr(module, name, packed)


def random_batch(
    images: int,
    questions: int,
    side: int,
    share: bool = False,
    own_tokens: int = QUESTION + ANSWER,
) -> Batch:
    """Random images with their questions, whose tokens are random too."""
    draw = np.random.default_rng(0)

    def pixels(channels: int, side: int, levels: int) -> Tensor:
        return torch.from_numpy(draw.integers(levels, size=(channels, side, side), dtype=np.uint8))

    samples = []
    for _ in range(images):
        image_vlm, image_seg = pixels(3, CLIP_SIDE, 256), pixels(3, side, 256)
        for _ in range(questions):
            own = draw.integers(10, 250, size=own_tokens).tolist()
            ids = (1, *[IMAGE_TOKEN] * IMAGE_TOKENS, *range(10, 10 + TEMPLATE), *own)
            samples.append(
                Sample(
                    image_vlm=image_vlm,
                    image_seg=image_seg,
                    mask=pixels(1, side, 2),
                    text=EncodedText(ids, len(ids) - ANSWER),
                    question="",
                    answer="",
                    modality=0,
                    row_id="",
                    weight=1 / questions,
                )
            )
    batch = Collator(0, "question", share)(samples)
    # One question an image: batches of samples have no index, as training makes them by default.
    return batch if questions > 1 else dataclasses.replace(batch, image_index=None)
