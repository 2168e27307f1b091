"""What the data side must know of a base model to prepare its inputs."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from prs_med.config import DataSettings, ModelSettings
from prs_med.data.prompt import PromptEncoder
from prs_med.data.samples import ImageSizes
from prs_med.model.llava_layouts import LlavaLayout


def prompt_encoder(
    tokenizer: PreTrainedTokenizerBase, layout: LlavaLayout, settings: DataSettings
) -> PromptEncoder:
    """The encoder of questions and answers for this base model."""
    vision = layout.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    with_class_token = layout.config.vision_feature_select_strategy == "full"
    return PromptEncoder(
        tokenizer, settings.prompt_template, patches + with_class_token, settings.max_length
    )


def image_sizes(layout: LlavaLayout, settings: ModelSettings) -> ImageSizes:
    """How images are prepared for this base model and the segmentation encoder."""
    red, green, blue = (int(255 * value) for value in layout.image_mean)
    return ImageSizes(
        vlm=layout.config.vision_config.image_size,
        seg=settings.image_size,
        pad_to_square=layout.pad_to_square,
        pad_colour=(red, green, blue),
        image_fit=settings.image_fit,
    )
