"""Questions about images in, answers in words and masks out."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from prs_med.answering_config import UsedModelSettings
from prs_med.data.images import as_rgb, load_image
from prs_med.data.samples import prepare_images
from prs_med.evaluate.generate import Sampling, predict
from prs_med.evaluate.post_processing import PostProcessing
from prs_med.export.load import load_model
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.fingerprint import weights_fingerprint
from prs_med.model.mllm import load_tokenizer
from prs_med.model.trained_weights import TrainedModel

THRESHOLD = 0.5
"""Pixels more likely than this belong to the mask."""


@dataclass(frozen=True)
class Answer:
    """What the model says about one image and question."""

    text: str
    probability: np.ndarray
    """(H, W) float32 of the source image's size: how likely a pixel belongs to the structure."""
    mask: np.ndarray
    """(H, W) bool: where the structure is more likely than not, after post-processing."""

    @property
    def confidence(self) -> float | None:
        """Mean probability of the mask's pixels; None where it is empty."""
        inside = self.probability[self.mask]
        return float(inside.mean()) if inside.size else None


class Answerer:
    """A trained model with all that it needs to answer."""

    def __init__(
        self,
        model: TrainedModel,
        sampling: Sampling,
        post_processing: PostProcessing | None = None,
    ) -> None:
        """Answer with ``model``, on a GPU if there is one."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = model.settings
        self.split = model.split
        """The content of ``split.json`` beside the weights; None where there is none."""
        self._mllm = model.mllm.to(self.device)
        self._segmentation = model.segmentation.to(self.device)
        self._tokenizer = load_tokenizer(model.layout)
        self._prompts = prompt_encoder(self._tokenizer, model.layout, model.settings)
        self._sizes = image_sizes(model.layout, model.settings)
        self._sampling = sampling
        self.post_processing = post_processing or PostProcessing()
        self._fingerprint: str | None = None

    @classmethod
    def load(cls, settings: UsedModelSettings) -> Answerer:
        """Answer with the weights and in the way that the settings name.

        Raises:
            SettingError: ``checkpoint`` names no trained weights.
            CheckpointError: naming the file that is missing, corrupt or of another model.
            BrokenCheckpointError, StorageError: a training checkpoint cannot be read.
        """
        model = load_model(
            settings.checkpoint,
            settings.vlm_path,
            settings.vision_tower,
            settings.load_4bit,
            settings.sam_ckpt,
        )
        named = {spec.name: getattr(settings, spec.name) for spec in fields(PostProcessing)}
        sampling = Sampling(
            settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed
        )
        return cls(model, sampling, PostProcessing(**named))

    def fingerprint(self) -> str:
        """Differs where the weights do."""
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self._mllm, self._segmentation)
        return self._fingerprint

    def release(self) -> None:
        """Free the model's memory; it cannot answer any more."""
        del self._mllm, self._segmentation
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def ask(self, image: Image.Image | str | PathLike[str], question: str) -> Answer:
        """The answer to one question about an image of any kind that files may have, or about the
        image in a file.

        Raises:
            DataError: it cannot be used: :func:`prs_med.data.images.load_image` says what can.
        """
        if isinstance(image, Image.Image):
            rgb = as_rgb(image, "the image")
        else:
            rgb = load_image(Path(image))
        return self.answer([rgb], [question])[0]

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[Answer]:
        """Answers to one question about each image (RGB, of any size), computed together.

        An answer that is drawn depends on the seed, its image and its question alone.
        """
        prepared = [prepare_images(image, self._sizes) for image in images]
        predictions = predict(
            self._mllm,
            self._segmentation,
            [self._prompts.prompt(question) for question in questions],
            torch.stack([pair[0] for pair in prepared]).to(self.device),
            torch.stack([pair[1] for pair in prepared]).to(self.device),
            pad_token=self._tokenizer.pad_token_id or 0,
            end_token=self._tokenizer.eos_token_id,
            sampling=self._sampling,
            draws=[
                _draws(self._sampling.seed, pair[0], question)
                for pair, question in zip(prepared, questions, strict=True)
            ],
        )
        answers = []
        for row, image in enumerate(images):
            text = self._tokenizer.decode(list(predictions.answers[row]), skip_special_tokens=True)
            logits = self._sizes.fit.restore(
                predictions.mask_logits[row : row + 1], (image.height, image.width)
            )
            probability = logits.sigmoid().cpu().numpy()
            mask = self.post_processing(probability > THRESHOLD)
            answers.append(Answer(text.strip(), probability, mask))
        return answers


def _draws(seed: int, image: torch.Tensor, question: str) -> Random:
    """Where the tokens of an answer are drawn from: the same for the same question about the same
    image, wherever it stands and whatever is asked beside it.

    Args:
        seed: chosen by the user.
        image: (3, V, V) uint8, as the language model sees it.
        question: what is asked.
    """
    named = hashlib.sha256(f"{seed}\n{question}\n".encode("utf-8", "surrogatepass"))
    named.update(image.numpy().tobytes())
    return Random(int.from_bytes(named.digest(), "big"))
