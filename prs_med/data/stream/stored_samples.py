"""From what a row group holds to samples."""

from __future__ import annotations

from prs_med.data.augment import Target
from prs_med.data.images import check_same_size, decode_image, decode_mask
from prs_med.data.records import DataError
from prs_med.data.samples import Preparation, Sample
from prs_med.data.stream.training_stream import StreamedUnit


class StoredSamples:
    """Decodes and prepares units; several threads may ask at once."""

    def __init__(self, preparation: Preparation, seed: int) -> None:
        """``seed``: what random changes follow from, together with a unit's position."""
        self._preparation = preparation
        self._seed = seed

    def make(self, unit: StreamedUnit) -> list[Sample]:
        """The samples of a unit, one for each of its questions.

        Raises:
            DataError: something cannot be decoded; the message names shard, row group and row.
        """
        stored = unit.stored
        # Not in the try block: what cannot be read is named already.
        encoded = stored.image
        try:
            image = decode_image(encoded, "the image")
            targets = []
            for target in stored.targets:
                mask = decode_mask(target.mask, "the mask")
                check_same_size(image, mask, target.row_id)
                targets.append(Target(mask, target.question, target.answer))
            return self._preparation.samples(
                image,
                targets,
                [target.row_id for target in stored.targets],
                stored.modality,
                weight=1.0 if unit.counts else 0.0,
                key=None if unit.position is None else (self._seed, unit.position),
            )
        except DataError as error:
            row = stored.targets[0].row_id
            raise DataError(f"{stored.where} ({row}): {error}") from None
