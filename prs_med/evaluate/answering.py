"""Questions about images in, answers in words and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from prs_med.config import UsedModelSettings
from prs_med.data.samples import prepare_images
from prs_med.evaluate.generate import Sampling, predict
from prs_med.export.load import load_model
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.mllm import load_tokenizer
from prs_med.model.trained_weights import TrainedModel


@dataclass(frozen=True)
class Answer:
    """What the model says about one image and question."""

    text: str
    probability: np.ndarray
    """(H, W) float32 of the source image's size: how likely a pixel belongs to the structure."""

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: where the structure is more likely than not."""
        return self.probability > 0.5


class Answerer:
    """A trained model with all that it needs to answer."""

    def __init__(self, model: TrainedModel, sampling: Sampling) -> None:
        """Answer with ``model``, on a GPU if there is one."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = model.settings
        self._mllm = model.mllm.to(self._device)
        self._segmentation = model.segmentation.to(self._device)
        self._tokenizer = load_tokenizer(model.layout)
        self._prompts = prompt_encoder(self._tokenizer, model.layout, model.settings)
        self._sizes = image_sizes(model.layout, model.settings)
        self._sampling = sampling
        self._generator = torch.Generator(self._device).manual_seed(sampling.seed)

    @classmethod
    def load(cls, settings: UsedModelSettings) -> Answerer:
        """Answer with the weights and in the way that the settings name.

        Raises:
            SettingError: ``checkpoint`` names no trained weights.
            CheckpointError: naming the file that is missing, corrupt or of another model.
            BrokenCheckpointError, StorageError: a training checkpoint cannot be read.
        """
        model = load_model(settings.checkpoint, settings.vlm_path, settings.vision_tower)
        sampling = Sampling(
            settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed
        )
        return cls(model, sampling)

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[Answer]:
        """Answers to one question about each image (RGB, of any size), computed together."""
        prepared = [prepare_images(image, self._sizes) for image in images]
        predictions = predict(
            self._mllm,
            self._segmentation,
            [self._prompts.prompt(question) for question in questions],
            torch.stack([pair[0] for pair in prepared]).to(self._device),
            torch.stack([pair[1] for pair in prepared]).to(self._device),
            pad_token=self._tokenizer.pad_token_id or 0,
            end_token=self._tokenizer.eos_token_id,
            sampling=self._sampling,
            generator=self._generator,
        )
        answers = []
        for row, image in enumerate(images):
            text = self._tokenizer.decode(list(predictions.answers[row]), skip_special_tokens=True)
            logits = self._sizes.fit.restore(
                predictions.mask_logits[row : row + 1], (image.height, image.width)
            )
            answers.append(Answer(text.strip(), logits.sigmoid().cpu().numpy()))
        return answers
