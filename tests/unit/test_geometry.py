"""What goes into the segmentation encoder and comes back lies where it lay before."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prs_med.data.geometry import PADDING, Fit

Box = tuple[int, int, int, int]
"""First and last row, first and last column, half open: top, bottom, left, right."""

SIDES = st.integers(17, 1500)
FITS = st.builds(
    Fit, st.integers(16, 64).map(lambda n: 16 * n), st.sampled_from(["stretch", "pad"])
)


def drawn(size: tuple[int, int], box: Box) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    return mask


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1])


def scales(fit: Fit, size: tuple[int, int]) -> np.ndarray:
    """Source pixels per input pixel: twice for rows, twice for columns, as in a box."""
    return np.repeat(np.array(size) / np.array(fit.scaled_size(size)), 2)


def there_and_back(fit: Fit, mask: np.ndarray) -> np.ndarray:
    logits = torch.from_numpy(fit.fit_mask(mask))[None, None].float() * 2 - 1
    return (fit.restore(logits, (mask.shape[0], mask.shape[1])) > 0).numpy()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Fit, tuple[int, int], Box]:
    """A box of at least two pixels of the coarser grid on each side."""
    fit, size = draw(FITS), (draw(SIDES), draw(SIDES))
    box: list[int] = []
    for side, scale in zip(size, scales(fit, size)[::2], strict=True):
        least = min(side, int(np.ceil(2 * max(1, scale))))
        first = draw(st.integers(0, side - least))
        box += [first, draw(st.integers(first + least, side))]
    return fit, size, (box[0], box[1], box[2], box[3])


@given(boxes())
@settings(max_examples=80)
def test_a_mask_comes_back_to_where_it_was(drawing: tuple[Fit, tuple[int, int], Box]) -> None:
    fit, size, box = drawing
    mask = drawn(size, box)
    back = there_and_back(fit, mask)
    assert back.shape == size
    limit = np.maximum(1, scales(fit, size))
    assert (np.abs(box_of(back) - box) <= limit).all()
    middle = [np.argwhere(m).mean(axis=0) for m in (mask, back)]
    assert (np.abs(middle[0] - middle[1]) < limit[::2]).all()


@given(boxes())
@settings(max_examples=80)
def test_image_and_mask_stay_one_above_the_other(drawing: tuple[Fit, tuple[int, int], Box]) -> None:
    fit, size, box = drawing
    mask = drawn(size, box)
    image = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    bright = np.asarray(fit.fit_image(image))[..., 0] > 127
    fitted = fit.fit_mask(mask)
    np.testing.assert_array_equal(bright, fitted == 1)
    scale = scales(fit, size)
    assert (np.abs(box_of(fitted) - box / scale) <= np.maximum(1, 1 / scale)).all()


@pytest.mark.parametrize("mode", ["stretch", "pad"])
@pytest.mark.parametrize(
    ("size", "side"),
    [((512, 512), 256), ((1024, 768), 256), ((700, 501), 256), ((300, 217), 512), ((97, 97), 256)],
)
def test_nothing_moves_on_average(
    size: tuple[int, int], side: int, mode: Literal["stretch", "pad"]
) -> None:
    fit, rng = Fit(side, mode), np.random.default_rng(0)
    scale = scales(fit, size)
    there, back = [], []
    for _ in range(200):
        rows = np.sort(rng.choice(size[0] + 1, 2, replace=False))
        columns = np.sort(rng.choice(size[1] + 1, 2, replace=False))
        if (
            np.array([np.diff(rows)[0], np.diff(columns)[0]]) < 2 * np.maximum(1, scale[::2])
        ).any():
            continue
        box = (*map(int, rows), *map(int, columns))
        mask = drawn(size, box)
        there.append(box_of(fit.fit_mask(mask)) - box / scale)
        back.append((box_of(there_and_back(fit, mask)) - np.array(box)) / scale)
    for shifts in (np.array(there), np.array(back)):
        edges = shifts.mean(axis=0)
        # First edges together with last edges: a shift moves both the same way.
        assert abs(edges[0] + edges[1]) / 2 < 0.05
        assert abs(edges[2] + edges[3]) / 2 < 0.05


@pytest.mark.parametrize("mode", ["stretch", "pad"])
def test_edges_on_the_grid_of_the_input_come_back_exactly(mode: Literal["stretch", "pad"]) -> None:
    fit, size = Fit(64, mode), (256, 192)
    for axis in (0, 1):
        step = int(scales(fit, size)[2 * axis])
        for edge in range(step, size[axis], step):
            mask = drawn(size, (0, edge, 0, 192) if axis == 0 else (0, 256, 0, edge))
            np.testing.assert_array_equal(there_and_back(fit, mask), mask)


@given(SIDES, SIDES, st.integers(0, 99), st.integers(1, 24))
@settings(max_examples=40)
def test_a_mirrored_mask_gives_the_mirrored_input(
    height: int, width: int, seed: int, cells: int
) -> None:
    coarse = np.random.default_rng(seed).integers(0, 2, (cells, cells), dtype=np.uint8)
    mask = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))
    fit = Fit(256)
    fitted = fit.fit_mask(mask)
    np.testing.assert_array_equal(fit.fit_mask(mask[::-1]), fitted[::-1])
    np.testing.assert_array_equal(fit.fit_mask(mask[:, ::-1]), fitted[:, ::-1])


@pytest.mark.parametrize("mode", ["stretch", "pad"])
def test_an_image_of_the_inputs_size_is_left_as_it_is(mode: Literal["stretch", "pad"]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    mask = pixels[..., 0] % 2
    fit = Fit(256, mode)
    np.testing.assert_array_equal(np.asarray(fit.fit_image(Image.fromarray(pixels))), pixels)
    np.testing.assert_array_equal(fit.fit_mask(mask), mask)
    np.testing.assert_array_equal(there_and_back(fit, mask), mask == 1)
    logits = torch.randn(1, 1, 256, 256)
    torch.testing.assert_close(fit.restore(logits, (256, 256)), logits[0, 0])


@given(FITS, SIDES, SIDES)
@settings(max_examples=50)
def test_inputs_are_square_and_keep_their_values(fit: Fit, height: int, width: int) -> None:
    white = np.full((height, width, 3), 255, np.uint8)
    image = fit.fit_image(Image.fromarray(white))
    mask = fit.fit_mask(white[..., 0] // 255)
    assert (image.mode, image.size) == ("RGB", (fit.size, fit.size))
    assert (mask.shape, mask.dtype) == ((fit.size, fit.size), np.uint8)
    inside = np.zeros((fit.size, fit.size), bool)
    inside[: fit.scaled_size((height, width))[0], : fit.scaled_size((height, width))[1]] = True
    assert (np.asarray(image)[inside] == 255).all()
    assert (np.asarray(image)[~inside] == PADDING).all()
    np.testing.assert_array_equal(mask == 1, inside)


@given(SIDES, SIDES, st.integers(16, 64).map(lambda n: 16 * n))
@settings(max_examples=100)
def test_padding_keeps_the_aspect_ratio(height: int, width: int, size: int) -> None:
    scaled = Fit(size, "pad").scaled_size((height, width))
    assert max(scaled) == size
    for side, result in zip((height, width), scaled, strict=True):
        assert abs(result - side * size / max(height, width)) <= 0.5
    assert Fit(size).scaled_size((height, width)) == (size, size)


def test_what_is_drawn_on_the_padding_does_not_come_back() -> None:
    fit, size = Fit(256, "pad"), (90, 200)
    logits = torch.randn(1, 1, 256, 256)
    expected = fit.restore(logits, size)
    height, width = fit.scaled_size(size)
    logits[:, :, height:], logits[:, :, :, width:] = 1000, -1000
    assert expected.shape == size
    torch.testing.assert_close(fit.restore(logits, size), expected)


@pytest.mark.parametrize("mode", ["stretch", "pad"])
def test_a_structure_of_one_pixel_does_not_vanish(mode: Literal["stretch", "pad"]) -> None:
    fit, size = Fit(256, mode), (1500, 1100)
    for row, column in [(0, 0), (1499, 1099), (700, 3)]:
        fitted = fit.fit_mask(drawn(size, (row, row + 1, column, column + 1)))
        assert 1 <= fitted.sum() <= 4
        shift = (box_of(fitted)[::2] + 0.5) * scales(fit, size)[::2] - (row + 0.5, column + 0.5)
        assert (np.abs(shift) <= scales(fit, size)[::2]).all()
    assert fit.fit_mask(np.zeros(size, np.uint8)).sum() == 0


@pytest.mark.parametrize("shape", [(1, 1, 128, 256), (2, 1, 256, 256), (256, 256)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected logits of shape \(1, 1, 256, 256\), got"):
        Fit(256).restore(torch.zeros(shape), (40, 50))
