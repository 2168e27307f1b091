"""The position rule against an independent reading of it, and against the real answers."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.images import load_mask
from prs_med.data.position import ZONES, Position, describe, position_of, position_statement

SAMPLE_DATA = os.environ.get("PRS_MED_SAMPLE_DATA")


def brute_force(mask: np.ndarray) -> tuple[str, bool]:
    """The rule in whole numbers, pixel by pixel."""
    height, width = mask.shape
    pixels = [(x, y) for y in range(height) for x in range(width) if mask[y, x]]
    xs, ys = sorted(x for x, _ in pixels), sorted(y for _, y in pixels)
    if xs[0] <= width // 2 <= xs[-1] and ys[0] <= height // 2 <= ys[-1]:
        return "center", True
    twice_dx = xs[0] + xs[-1] - 2 * (width // 2)
    twice_dy = ys[0] + ys[-1] - 2 * (height // 2)
    zone = ("bottom" if twice_dy >= 0 else "top") + (" right" if twice_dx >= 0 else " left")
    # (d / 2)^2 < (w / 5)^2
    return zone, 25 * (twice_dx**2 + twice_dy**2) < 4 * width**2


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(draw(st.integers(1, 4))):
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


@given(masks())
@settings(max_examples=200)
def test_rule_agrees_with_brute_force(mask: np.ndarray) -> None:
    position = position_of(mask)
    assert (position.zone, position.near_center) == brute_force(mask)
    assert position_of(mask.astype(np.uint8) * 255) == position


@given(masks())
@settings(max_examples=100)
def test_flipping_an_odd_width_swaps_left_and_right(mask: np.ndarray) -> None:
    mask = np.pad(mask, ((0, 0), (0, 1 - mask.shape[1] % 2)))
    columns = np.flatnonzero(mask.any(axis=0))
    before, after = position_of(mask), position_of(mask[:, ::-1])
    if columns[0] + columns[-1] == mask.shape[1] - 1:
        assert after == before  # on the middle line: a tie either way
    else:
        swap = {"left": "right", "right": "left"}
        words = before.zone.split()
        assert after.zone == " ".join(swap.get(word, word) for word in words)
        assert after.near_center == before.near_center


def rectangle(top: int, bottom: int, left: int, right: int, size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "zone", "near"),
    [
        (rectangle(0, 50, 0, 50), "center", True),  # the last covered pixel is the centre
        (rectangle(0, 49, 0, 49), "top left", False),
        (rectangle(10, 20, 45, 55), "top right", False),  # tie in x counts as right
        (rectangle(45, 55, 10, 20), "bottom left", False),  # tie in y counts as bottom
        (rectangle(50, 50, 30, 30), "bottom left", False),  # exactly 0.2 widths is not near
        (rectangle(50, 50, 31, 31), "bottom left", True),
        (rectangle(20, 90, 0, 52), "center", True),  # off its middle by 0.24 widths, yet spanning
    ],
)
def test_borders_of_the_rule(mask: np.ndarray, zone: str, near: bool) -> None:
    assert position_of(mask) == Position(zone, near)


def test_empty_and_misshapen_masks_have_no_position() -> None:
    with pytest.raises(ValueError, match="empty"):
        position_of(np.zeros((4, 4), dtype=bool))
    with pytest.raises(ValueError, match=r"\(1, 4, 4\)"):
        position_of(np.ones((1, 4, 4), dtype=bool))


def test_impossible_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown zone 'middle'"):
        Position("middle", True)
    with pytest.raises(ValueError, match="near the centre"):
        Position("center", False)


def test_wording() -> None:
    far, near = Position("top left", False), Position("center", True)
    assert describe("tumor", far) == "The tumor is located in the top left of the image."
    assert (
        describe("tumor", near)
        == "The tumor is located in the center of the image, near the center."
    )
    assert (
        position_statement("tumor", far)
        == "The position of the tumor is top left and it is away from the center."
    )
    assert len({describe("x", Position(zone, True)) for zone in ZONES}) == 5


@pytest.mark.skipif(SAMPLE_DATA is None, reason="PRS_MED_SAMPLE_DATA names no sample data")
def test_rule_reproduces_every_real_answer() -> None:
    root = Path(SAMPLE_DATA or "") / "real"
    checked = 0
    for path in sorted((root / "annotations").glob("*.csv")):
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                position = position_of(load_mask(root / row["image_path"]))
                name = row["answer"].removeprefix("The ").split(" is located")[0]
                assert describe(name, position) == row["answer"]
                assert position_statement(name, position) == row["position"]
                checked += 1
    assert checked == 16
