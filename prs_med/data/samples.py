"""From a record to the tensors of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from prs_med.batch import UNKNOWN_MODALITY
from prs_med.data.geometry import Fit
from prs_med.data.images import (
    check_same_size,
    load_image,
    load_mask,
    pad_to_square,
    resize_shortest_edge_center_crop,
)
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
    """One sample, before batching; shapes as in :class:`prs_med.batch.Batch` without B."""

    image_vlm: Tensor
    image_seg: Tensor
    mask: Tensor
    text: EncodedText
    modality: int
    row_id: str
    counts: bool
    """False for filling at the end of an evaluation."""


class SampleDataset(Dataset[Sample]):
    """Records as samples. An index of ``None`` gives filling: the first sample, not counted."""

    def __init__(
        self,
        records: list[Record],
        prompts: PromptEncoder,
        sizes: ImageSizes,
        modalities: tuple[str, ...],
    ) -> None:
        self.records = records
        self._prompts = prompts
        self._sizes = sizes
        self._modality_index = {name: i for i, name in enumerate(modalities)}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int | None) -> Sample:
        """Raises :class:`DataError` with file and line if the files cannot be used."""
        record = self.records[index or 0]
        try:
            return self._read(record, counts=index is not None)
        except DataError as error:
            message = str(error)
            if message.startswith(record.row_id):
                raise
            raise DataError(f"{record.row_id}: {message}") from None

    def _read(self, record: Record, counts: bool) -> Sample:
        image = load_image(record.image_path)
        mask = load_mask(record.mask_path)
        check_same_size(image, mask, record.row_id)
        image_vlm, image_seg = prepare_images(image, self._sizes)
        return Sample(
            image_vlm=image_vlm,
            image_seg=image_seg,
            mask=torch.from_numpy(self._sizes.fit.fit_mask(mask))[None],
            text=self._prompts.encode(record.question, record.answer, record.row_id),
            modality=self._modality_index.get(record.modality or "", UNKNOWN_MODALITY),
            row_id=record.row_id,
            counts=counts,
        )


def prepare_images(image: Image.Image, sizes: ImageSizes) -> tuple[Tensor, Tensor]:
    """One decoded RGB image for both encoders: (3, V, V) and (3, S, S) uint8."""
    square = pad_to_square(image, sizes.pad_colour) if sizes.pad_to_square else image
    for_vlm = resize_shortest_edge_center_crop(square, sizes.vlm)
    return _to_tensor(np.asarray(for_vlm)), _to_tensor(np.asarray(sizes.fit.fit_image(image)))


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
