"""The images of a finished evaluation, read again from where its data lies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prs_med.data.dataset.index import read_index
from prs_med.data.images import load_image, load_mask
from prs_med.data.paths import image_of, mask_of, relative
from prs_med.data.records import DataError
from prs_med.evaluate.questions import StoredQuestions
from prs_med.storage.location import open_store
from prs_med.storage.store import StorageError

_logger = logging.getLogger("prs_med")


class EvaluatedImages:
    """Images and true masks of the rows of an evaluation. Those that cannot be read are named in
    the log, once."""

    def __init__(
        self, metrics: Mapping[str, Any], data: str | None = None, data_root: str | None = None
    ) -> None:
        """
        Args:
            metrics: of the evaluation.
            data: where its dataset lies now, if it has moved.
            data_root: the same for CSV files and images.
        """
        about = metrics["evaluation"]
        source = about["data"]
        if about["data_kind"] == "dataset":
            self._root, self._dataset = None, data or source
        else:
            self._root, self._dataset = Path(data_root or source).resolve(), ""
        self._split = about["split"]
        self._questions: StoredQuestions | None = None
        self._warned = False

    def pixels(self, row: Mapping[str, Any]) -> tuple[Image.Image | None, np.ndarray | None]:
        """The image in RGB and the true mask, (H, W) bool, of a row of per_sample.parquet."""
        try:
            return self._from_files(row) if self._root else self._from_dataset(row)
        except (DataError, StorageError) as error:
            if not self._warned:
                _logger.warning(
                    "pictures are missing: %s; --data or --data_root names where the data lies now",
                    error,
                )
            self._warned = True
            return None, None

    def _from_files(self, row: Mapping[str, Any]) -> tuple[Image.Image, np.ndarray]:
        assert self._root is not None
        mask = relative(self._root, row["mask"], "mask_path")
        image = image_of(self._root, relative(self._root, row["image"], "image_path"), mask)
        return load_image(image), load_mask(mask_of(self._root, mask)).astype(bool)

    def _from_dataset(self, row: Mapping[str, Any]) -> tuple[Image.Image, np.ndarray | None]:
        if self._questions is None:
            store = open_store(self._dataset)
            self._questions = StoredQuestions(store, read_index(store).split(self._split))
        number = row["number"]
        if (
            number >= len(self._questions)
            or self._questions.question(number).row_id != row["row_id"]
        ):
            raise DataError(f"{self._dataset}: is not the dataset that was evaluated")
        return self._questions.pixels(number)
