"""A whole small model with its data, put together as training does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prs_med.batch import Batch
from prs_med.config import Settings
from prs_med.data.collate import Collator
from prs_med.data.prompt import PromptEncoder
from prs_med.data.records import Record
from prs_med.data.rows import modality_vocabulary, read_records
from prs_med.data.samples import ImageSizes, Preparation, SampleDataset
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.encoders.registry import load_encoder
from prs_med.model.llava_layouts import LlavaLayout, read_layout
from prs_med.model.mllm import Mllm, build_mllm, load_tokenizer
from prs_med.model.segmentation import SegmentationBranch
from prs_med.model.trained_weights import save_trained


@dataclass(frozen=True)
class Inputs:
    """Everything that turns records into batches."""

    settings: Settings
    layout: LlavaLayout
    tokenizer: object
    records: list[Record]
    modalities: tuple[str, ...]
    prompts: PromptEncoder
    sizes: ImageSizes

    def dataset(self, records: Sequence[Record] | None = None) -> SampleDataset:
        """``records`` (default: all) as samples."""
        chosen = self.records if records is None else list(records)
        return SampleDataset(chosen, self.preparation)

    @property
    def preparation(self) -> Preparation:
        """How images and texts become samples."""
        return Preparation(self.prompts, self.sizes, self.modalities)

    @property
    def collator(self) -> Collator:
        """What makes batches of them."""
        return Collator(self.tokenizer.pad_token_id, self.settings.prompt_tokens)

    def batch(self, records: Sequence[Record]) -> Batch:
        """One batch of these records."""
        dataset = self.dataset(records)
        return self.collator([dataset[index] for index in range(len(dataset))])


@dataclass(frozen=True)
class Assembled(Inputs):
    """The same with the model."""

    mllm: Mllm
    segmentation: SegmentationBranch

    def save(self, folder: Path) -> None:
        """Write the trained weights as the end of training does."""
        full = self.settings.finetune == "full"
        weights = {
            name: parameter.detach() if full else parameter.detach().float()
            for name, parameter in self.mllm.named_parameters()
            if full or parameter.requires_grad
        }
        save_trained(
            folder,
            self.mllm,
            weights,
            self.segmentation.state_dict(),
            self.tokenizer,
            self.settings,
            self.modalities,
            {"val_dice": 0.5},
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of both sides by name."""
        return {
            f"{side}.{name}": parameter
            for side in ("mllm", "segmentation")
            for name, parameter in getattr(self, side).named_parameters()
        }


def read_inputs(small, **changes) -> Inputs:
    """The data side, with settings that suit small data."""
    settings = Settings(
        **{
            "data_root": str(small.data),
            "vlm_path": str(small.llava_med),
            "sam_ckpt": str(small.tinysam),
            "precision": "fp32",
            "image_size": 96,
            **changes,
        }
    )
    layout = read_layout(settings.vlm_path)
    tokenizer = load_tokenizer(layout)
    records = read_records(settings).records
    return Inputs(
        settings,
        layout,
        tokenizer,
        records,
        modality_vocabulary(records),
        prompt_encoder(tokenizer, layout, settings),
        image_sizes(layout, settings),
    )


def assemble(small, **changes) -> Assembled:
    """The whole model in evaluation mode, every trained weight moved away from its start."""
    inputs = read_inputs(small, **changes)
    settings = inputs.settings
    torch.manual_seed(0)
    mllm = build_mllm(inputs.layout, settings).eval()
    segmentation = SegmentationBranch(
        load_encoder(settings.encoder_type, settings.sam_ckpt),
        mllm.hidden_size,
        len(inputs.modalities),
        settings.decoder_dropout,
    ).eval()
    if settings.freeze_encoder:
        segmentation.freeze_encoder()
    model = Assembled(**vars(inputs), mllm=mllm, segmentation=segmentation)
    # LoRA starts at zero and would leave the base model as it is.
    with torch.no_grad():
        for parameter in model.parameters().values():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    if settings.precision == "bf16":
        # As DeepSpeed does; PEFT makes fp32 weights beside int8 ones.
        for parameter in mllm.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.bfloat16()
    return model
