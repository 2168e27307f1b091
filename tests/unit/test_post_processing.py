"""Changes to masks that users ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prs_med.evaluate.post_processing import PostProcessing

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def picture(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_nothing_is_changed_unless_asked_for() -> None:
    mask = picture("#.#", ".#.", "...")
    assert (PostProcessing()(mask) == mask).all()
    assert PostProcessing().text == ""


def test_by_hand() -> None:
    mask = picture(
        "###...#",
        "#.#....",
        "###..#.",
        "......#",
    )
    filled = PostProcessing(fill_holes=True)(mask)
    assert filled[1, 1]
    assert filled.sum() == mask.sum() + 1
    # Pixels that touch by a corner hang together.
    parts = PostProcessing(minimum_area=2)(mask)
    assert not parts[0, 6]
    assert parts[2, 5]
    assert parts[3, 6]
    largest = PostProcessing(largest_component=True)(mask)
    assert largest.sum() == 8
    assert not largest[:, 3:].any()
    assert not PostProcessing(largest_component=True, minimum_area=9)(mask).any()
    everything = PostProcessing(fill_holes=True, largest_component=True, minimum_area=9)
    assert everything(mask).sum() == 9
    assert everything.text == "holes filled, largest component, components of 9 pixels or more"


@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_an_empty_mask_stays_empty(shape: tuple[int, int]) -> None:
    change = PostProcessing(fill_holes=True, largest_component=True, minimum_area=3)
    assert not change(np.zeros(shape, dtype=bool)).any()


@given(mask=MASKS, fill=st.booleans(), largest=st.booleans(), area=st.integers(0, 6))
def test_twice_is_once(mask: np.ndarray, fill: bool, largest: bool, area: int) -> None:
    change = PostProcessing(fill, largest, area)
    before = mask.copy()
    once = change(mask)
    assert once.dtype == np.bool_
    assert once.shape == mask.shape
    assert (mask == before).all()
    assert (change(once) == once).all()
    if not fill:
        assert not (once & ~mask).any()
