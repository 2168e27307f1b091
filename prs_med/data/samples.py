"""From a record to the tensors of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from prs_med.batch import UNKNOWN_MODALITY
from prs_med.data.augment import Augmentation, Target
from prs_med.data.clip_input import padded_to_square, resize_shortest_edge_center_crop
from prs_med.data.geometry import Fit
from prs_med.data.images import check_same_size, load_image, load_mask
from prs_med.data.order import sample_at
from prs_med.data.prompt import EncodedText, PromptEncoder
from prs_med.data.records import DataError, Record


@dataclass(frozen=True)
class ImageSizes:
    """How images are prepared for the two encoders."""

    vlm: int
    """Side of the CLIP tower's input in pixels."""
    seg: int
    """Side of the segmentation encoder's input in pixels."""
    pad_to_square: bool
    """Pad for the CLIP tower with the mean colour, or crop the centre."""
    pad_colour: tuple[int, int, int]
    image_fit: Literal["stretch", "pad"] = "stretch"
    """How an image becomes square for the segmentation encoder; see :class:`Fit`."""

    @property
    def fit(self) -> Fit:
        """The way from an image to the segmentation encoder's input, and of a mask back."""
        return Fit(self.seg, self.image_fit)


@dataclass(frozen=True)
class Sample:
    """One sample, before batching; shapes as in :class:`prs_med.batch.Batch` without B and I.
    ``question`` and ``answer`` are what ``text`` encodes.

    Samples of one image that are made together share its tensors.
    """

    image_vlm: Tensor
    image_seg: Tensor
    mask: Tensor
    text: EncodedText
    question: str
    answer: str
    modality: int
    row_id: str
    weight: float
    """1, or one nth for the n samples of an image in a batch by image, or 0 for filling."""


@dataclass(frozen=True)
class Preparation:
    """How images and texts become samples, for one base model and one encoder."""

    prompts: PromptEncoder
    sizes: ImageSizes
    modalities: tuple[str, ...]
    """The model's vocabulary of modalities."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Applied to training samples alone."""

    def samples(
        self,
        image: Image.Image,
        targets: Sequence[Target],
        row_ids: Sequence[str],
        modality: str | None,
        weight: float,
        key: tuple[int, ...] | None,
    ) -> list[Sample]:
        """The samples of an image, one for each target.

        Args:
            image: RGB.
            targets: what is asked about it; masks in the image's size.
            row_ids: the row of each target.
            modality: None where unknown.
            weight: of the image, shared out evenly among its samples.
            key: what random changes follow from; None changes nothing.

        Raises:
            DataError: a text is too long.
        """
        if key is not None:
            image, targets = self.augmentation.apply_to_image(image, targets, key)
        image_vlm, image_seg = prepare_images(image, self.sizes)
        label = self.modalities.index(modality) if modality in self.modalities else UNKNOWN_MODALITY
        return [
            Sample(
                image_vlm=image_vlm,
                image_seg=image_seg,
                mask=torch.from_numpy(self.sizes.fit.fit_mask(target.mask))[None],
                text=self.prompts.encode(target.question, target.answer, row_id),
                question=target.question,
                answer=target.answer,
                modality=label,
                row_id=row_id,
                weight=weight / len(targets),
            )
            for target, row_id in zip(targets, row_ids, strict=True)
        ]


class SampleDataset(Dataset[Sample]):
    """Records as samples. An index of ``None`` gives filling: the first sample, not counted."""

    def __init__(self, records: list[Record], preparation: Preparation) -> None:
        self.records = records
        self._preparation = preparation

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | None) -> Sample:
        """Raises :class:`DataError` with file and line if the files cannot be used."""
        return self.read(index or 0, weight=float(index is not None))

    def read(self, index: int, weight: float = 1.0, key: tuple[int, ...] | None = None) -> Sample:
        """A sample, with the random changes that follow from ``key``, if one is given."""
        record = self.records[index]
        try:
            image = load_image(record.image_path)
            mask = load_mask(record.mask_path, record.mask_class)
            check_same_size(image, mask, record.row_id)
            target = Target(mask, record.question, record.answer)
            (sample,) = self._preparation.samples(
                image, [target], [record.row_id], record.modality, weight, key
            )
            return sample
        except DataError as error:
            message = str(error)
            if message.startswith(record.row_id):
                raise
            raise DataError(f"{record.row_id}: {message}") from None


class TrainingSamples(Dataset[Sample]):
    """The endless training sequence over records: the sample at each position of it."""

    def __init__(self, samples: SampleDataset, seed: int) -> None:
        self._samples = samples
        self._seed = seed

    def __getitem__(self, position: int) -> Sample:
        """Raises :class:`DataError` with file and line if the files cannot be used."""
        index = sample_at(position, len(self._samples), self._seed)
        return self._samples.read(index, key=(self._seed, position))


def prepare_images(image: Image.Image, sizes: ImageSizes) -> tuple[Tensor, Tensor]:
    """One decoded RGB image for both encoders: (3, V, V) and (3, S, S) uint8."""
    if sizes.pad_to_square:
        for_vlm = padded_to_square(image, sizes.pad_colour, sizes.vlm)
    else:
        for_vlm = resize_shortest_edge_center_crop(image, sizes.vlm)
    return _to_tensor(np.asarray(for_vlm)), _to_tensor(np.asarray(sizes.fit.fit_image(image)))


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
