"""Random changes of training images that leave question, answer and mask consistent.

Everything follows from a key, so a sample is changed alike whichever process prepares it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prs_med.data.answer_position import parse_position
from prs_med.data.mirrored_words import (
    MIRRORED,
    mirrored_text,
    sides_in,
    words_can_be_mirrored,
)
from prs_med.data.position import Position, position_of

_BRIGHTNESS = 0.2
_CONTRAST = 0.4
_GAMMA = 0.4
_CENTRAL = re.compile(r"\b(?:center|centre|middle|central)\b")


@dataclass(frozen=True)
class Target:
    """One question about an image."""

    mask: np.ndarray
    """(H, W) uint8, zeros and ones, in the image's size."""
    question: str
    answer: str


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made; by default none.

    Flips are off by default for another reason too: letters and side marks that are drawn into an
    image, and organs, are mirrored with it.
    """

    intensity: float = 0.0
    """Strength s, 0..1, of changes of grey values, one change for all channels. A value x from 0 to
    1 becomes brightness · (y + contrast · 2y(1 - y)(2y - 1)) with y = x^gamma, where brightness is
    in 1 ± 0.2s, gamma in 1 ± 0.4s, and contrast, the change of the slope in the middle, in ± 0.4s.
    The result is rounded and cut at white; black stays black."""
    flip: float = 0.0
    """Probability of a horizontal, and independently of a vertical flip."""

    def apply_to_image(
        self, image: Image.Image, targets: Sequence[Target], key: tuple[int, ...]
    ) -> tuple[Image.Image, Sequence[Target]]:
        """An image and its targets, changed as the key says; all targets alike.

        A flip is left out where it would make a text wrong, or where that cannot be excluded: see
        :func:`flipped`.

        Args:
            image: RGB.
            targets: all that is asked about the image in this batch.
            key: numbers of 0 or more.
        """
        if not (self.intensity or self.flip):
            return image, targets
        draws = _uniforms(5, key)
        for draw, direction in zip(draws[:2], MIRRORED, strict=True):
            mirrored = (
                [flipped(target, direction) for target in targets] if draw < self.flip else []
            )
            if mirrored and None not in mirrored:
                targets = [target for target in mirrored if target is not None]
                image = image.transpose(_TRANSPOSE[direction])
        if self.intensity:
            image = image.point(_table(draws[2:] * 2 - 1, self.intensity) * 3)
        return image, targets


_TRANSPOSE = {
    "horizontal": Image.Transpose.FLIP_LEFT_RIGHT,
    "vertical": Image.Transpose.FLIP_TOP_BOTTOM,
}


def flipped(target: Target, direction: str) -> Target | None:
    """A target with its mask and its words of place mirrored; None if that is not safe.

    It is safe if every word is on the list of :mod:`prs_med.data.mirrored_words`; if the answer's
    zone and nearness, and any side that a text names, are those of the mask before and after (the
    rule is not symmetric at the middle lines); and if texts that speak of places have a mask that
    is not empty.

    Args:
        target: a question about an image.
        direction: ``horizontal`` or ``vertical``.
    """
    question = mirrored_text(target.question, direction)
    answer = mirrored_text(target.answer, direction)
    if question is None or answer is None:
        return None
    # A copy: torch takes no arrays that run backwards.
    mask = np.ascontiguousarray(np.flip(target.mask, 1 if direction == "horizontal" else 0))
    result = Target(mask, question, answer)
    if not any(sides_in(text) or _CENTRAL.search(text.lower()) for text in (question, answer)):
        return result
    if not mask.any() or not (_agrees(target) and _agrees(result)):
        return None
    before, after = position_of(target.mask), position_of(mask)
    zone = mirrored_text(before.zone, direction)
    return result if zone and after == Position(zone, before.near_center) else None


def words_can_be_flipped(question: str, answer: str) -> bool:
    """Whether the words of a question and its answer can; where their mask lies may still forbid
    it."""
    return words_can_be_mirrored(question) and words_can_be_mirrored(answer)


def _agrees(target: Target) -> bool:
    """Whether what the answer says of its place, and any side that a text names, is true of the
    mask."""
    said, true = parse_position(target.answer), position_of(target.mask)
    if not sides_in(f"{target.question} {target.answer}") <= set(true.zone.split()):
        return False
    return said.zone in (None, true.zone) and said.near_center in (None, true.near_center)


def _uniforms(count: int, key: tuple[int, ...]) -> np.ndarray:
    """Numbers from 0 to below 1 that follow from a key, under any release of numpy."""
    raw = np.random.Philox(np.random.SeedSequence((*key, 2))).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


def _table(draws: np.ndarray, strength: float) -> list[int]:
    """New grey values for 0..255; ``draws`` are three numbers from -1 to 1."""
    brightness, contrast, gamma = (
        1 + strength * _BRIGHTNESS * draws[0],
        strength * _CONTRAST * draws[1],
        1 + strength * _GAMMA * draws[2],
    )
    y = (np.arange(256) / 255) ** gamma
    values = brightness * (y + contrast * 2 * y * (1 - y) * (2 * y - 1))
    return [int(value) for value in np.clip(np.rint(values * 255), 0, 255)]
