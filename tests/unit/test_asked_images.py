"""Images that are given to ``ask`` are read by the rules of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prs_med.data.records import DataError
from prs_med.evaluate.answering import Answerer


class Seen(Answerer):
    """Answers with the image that it was shown."""

    def __init__(self) -> None:
        pass

    def answer(self, images: Any, questions: Any) -> Any:
        return [np.asarray(image) for image in images]


def test_16_bits_in_memory_are_those_of_a_file(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 256, 25600, 65535]], np.uint16))
    image.save(tmp_path / "x.png")
    shown = Seen().ask(image, "Where?")
    assert shown[0, :, 0].tolist() == [0, 1, 100, 255]
    np.testing.assert_array_equal(shown, Seen().ask(tmp_path / "x.png", "Where?"))


def test_what_no_file_may_hold_is_refused_in_memory() -> None:
    for pixels in (np.ones((2, 2), np.float32), np.full((2, 2), 4095, np.uint16)):
        with pytest.raises(DataError, match=r"^the image: "):
            Seen().ask(Image.fromarray(pixels), "Where?")
