"""One question about one image: what every other module of the package reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prs_med.mask_classes import MaskClass


class DataError(ValueError):
    """A row or a file of the data set is wrong.

    Where a row is at fault the message starts with ``<csv name>:<line>: ``, the line as an editor
    shows it.
    """


@dataclass(frozen=True)
class Record:
    """One row of an annotation file, its paths resolved against the data root."""

    row_id: str
    """Annotation file and line, ``lung_CT.csv:12``; unique within one reading."""

    image_path: Path
    """The image itself, never the mask, whichever of them the row named."""

    mask_path: Path
    """The mask of the structure the question asks about, or a map of several classes."""

    question: str
    """The question, never empty."""

    answer: str
    """The reference answer; empty only where rows without one were asked for."""

    position: str
    """The position statement; empty where the file has none."""

    modality: str | None
    """Name of the task or modality; None where neither a column nor a folder tells."""

    split: str
    """``train``, ``val`` or ``test``; empty where the file has no split column."""

    group: str = ""
    """Patient or study that the image belongs to, as :func:`prs_med.data.groups.same_name` has it;
    empty where neither column nor file name tells. Images without one stand for themselves."""

    task: str = ""
    """Task that ``--tasks`` may name; empty where neither column, folder nor file name tells."""

    mask_class: MaskClass | None = None
    """The class of the mask that the question asks about, if the mask shows several."""

    root: Path = Path("/")
    """The data root, its links followed. Where an image lies below it is the image's identity."""
