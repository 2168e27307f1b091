"""A picture of results: image, truth, prediction, question and both answers, a row each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prs_med.data.images import load_image, load_mask
from prs_med.data.overlay import fitted, overlay
from prs_med.evaluate.evaluation import Result

TILE = 176
MARGIN = 10
TEXT_WIDTH = 400
TRUTH_COLOUR = (46, 160, 67)
PREDICTION_COLOUR = (217, 72, 15)
_CHARACTERS_PER_LINE = 54


def write_picture_sheet(path: Path, results: Sequence[Result]) -> None:
    """Save a PNG with one row per result."""
    header = 26
    width = 3 * (TILE + MARGIN) + MARGIN + TEXT_WIDTH
    sheet = Image.new("RGB", (width, header + len(results) * (TILE + MARGIN) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    bold = ImageFont.load_default(15)
    for column, title in enumerate(("image", "truth", "prediction", "question and answers")):
        draw.text((MARGIN + column * (TILE + MARGIN), 6), title, "black", font=bold)
    for row, result in enumerate(results):
        top = header + row * (TILE + MARGIN)
        _draw_row(sheet, draw, result, top)
    sheet.save(path)


def draw_triplet(image: Image.Image, truth: np.ndarray | None, mask: np.ndarray) -> Image.Image:
    """Image, true mask and predicted mask side by side in the image's own size.

    ``truth`` and ``mask`` are (H, W) bool; without a truth its place stays grey.
    """
    sheet = Image.new("RGB", (3 * image.width + 2 * MARGIN, image.height), "white")
    middle = (
        Image.new("RGB", image.size, (238, 238, 238))
        if truth is None
        else overlay(image, truth, TRUTH_COLOUR)
    )
    for column, tile in enumerate((image, middle, overlay(image, mask, PREDICTION_COLOUR))):
        sheet.paste(tile, (column * (image.width + MARGIN), 0))
    return sheet


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, result: Result, top: int) -> None:
    image = load_image(result.record.image_path)
    truth = load_mask(result.record.mask_path).astype(bool)
    tiles = (
        image,
        overlay(image, truth, TRUTH_COLOUR),
        overlay(image, result.mask, PREDICTION_COLOUR),
    )
    for column, tile in enumerate(tiles):
        sheet.paste(fitted(tile, TILE), (MARGIN + column * (TILE + MARGIN), top))
    left = MARGIN + 3 * (TILE + MARGIN)
    verdict = {True: "right zone", False: "wrong zone", None: "no zone to compare"}
    lines = [
        (result.record.modality or "", (110, 110, 110)),
        *_wrapped(f"Question: {result.record.question}", (0, 0, 0)),
        *_wrapped(f"Truth: {result.record.answer}", TRUTH_COLOUR),
        *_wrapped(f"Answer: {result.answer or '(empty)'}", PREDICTION_COLOUR),
        (f"Dice {result.dice:.3f}, {verdict[result.zone_correct]}", (110, 110, 110)),
    ]
    font = ImageFont.load_default(13)
    for number, (text, colour) in enumerate(lines):
        draw.text((left, top + 4 + 17 * number), text, colour, font=font)


def _wrapped(text: str, colour: tuple[int, int, int]) -> list[tuple[str, tuple[int, int, int]]]:
    return [(line, colour) for line in textwrap.wrap(text, _CHARACTERS_PER_LINE)]
