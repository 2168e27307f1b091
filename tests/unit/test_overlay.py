"""Masks drawn over images."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prs_med.data.overlay import overlay


@given(st.integers(1, 700), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_half_of_the_colour_lies_where_the_mask_is(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask, colour = rng.random((height, width)) < 0.5, (46, 160, 217)
    image = Image.fromarray(pixels)
    drawn = np.asarray(overlay(image, mask, colour))
    np.testing.assert_array_equal(drawn[~mask], pixels[~mask])
    np.testing.assert_array_equal(drawn[mask], (pixels[mask].astype(int) + colour) // 2)
    np.testing.assert_array_equal(np.asarray(image), pixels)
