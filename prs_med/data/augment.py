"""Random changes of training images that leave question, answer and mask consistent.

Everything follows from a key, so a sample is changed alike whichever process prepares it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prs_med.data.answer_position import ANATOMY, parse_position
from prs_med.data.position import Position, position_of

_BRIGHTNESS = 0.2
_CONTRAST = 0.4
_GAMMA = 0.4
_MIRRORED = {
    "horizontal": {"left": "right", "right": "left"},
    "vertical": {"top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"},
}
_RULE_WORDS = {"upper": "top", "lower": "bottom"}
_VERTICAL = "top|bottom|upper|lower"
_HORIZONTAL = "left|right"
_PICTURE = r"(?:image|picture|scan|slice|frame|photo|photograph|radiograph|x-ray)\b"
_PART = r"(?:side|half|corner|part|quadrant|edge|region|area|border|third)\b"
_OF_SOMETHING_ELSE = rf"(?![\s(,]+(?:of|in|to)\s+(?!(?:the|this|an?)\s+{_PICTURE}))"
# All that a mirror may falsify; letters alone bound it, so that "upper_left" is found too.
_PLACE = re.compile(
    r"(?<![a-z])(?:(?:left|right|upper|lower|bottom)[a-z]*|top(?:left|right|most)?"
    r"|[a-z]*lateral(?:ly)?|medial(?:ly)?|superior|inferior|anterior|posterior|cranial|caudal"
    r"|dorsal|ventral|proximal|distal|apical|basal|above|below|beneath|underneath"
    r"|(?:up|down)wards?|(?:north|south|east|west)[a-z]*|[a-z]*clock(?:wise)?"
    r"|[lr](?:[uml]l|[ul]q)?)(?![a-z])"
)
_SIDE_OF_SOMEBODY = re.compile(
    rf"(?:['\u2019]s|\b(?:his|her|its|their|patient))\s+(?:[a-z]+\s+)?(?:{_VERTICAL}|{_HORIZONTAL})\b"
)
_PHRASE_ENDS = r"(?=\s*(?:[.,;:!?)]|$)|\s+(?:of|in|and|or|but|near|close|away|far)\b)"
_CENTRAL = re.compile(r"\b(?:center|centre|middle|central)\b")
# Two words ("top left") may stand alone; one must say what part it means ("left side").
_PART_OF_IMAGE = re.compile(
    rf"\b(?:(?:(?:{_VERTICAL})[\s,/-]+(?:{_HORIZONTAL})|(?:{_HORIZONTAL})[\s,/-]+(?:{_VERTICAL}))"
    rf"(?:[\s-]+{_PART})?{_OF_SOMETHING_ELSE}{_PHRASE_ENDS}"
    rf"|(?:{_VERTICAL}|{_HORIZONTAL})(?:[\s-]+hand)?[\s-]+{_PART}{_OF_SOMETHING_ELSE}{_PHRASE_ENDS}"
    rf"|(?:{_VERTICAL}|{_HORIZONTAL})\s+of\s+(?:the|this)\s+{_PICTURE})"
)


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
        for draw, direction in zip(draws[:2], _MIRRORED, strict=True):
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

    It is not safe if a word of place belongs to anatomy ("the left lung"), or to anything else than
    a part of the image, as far as one can see; if the answer's zone or nearness, or any side that
    a text names, is not that of the mask before and after (the rule is not symmetric at the middle
    lines); or if a mask is empty and the texts speak of places all the same. Texts are taken to be
    English.

    Args:
        target: a question about an image.
        direction: ``horizontal`` or ``vertical``.
    """
    texts = (target.question, target.answer)
    if not all(_speaks_of_the_image(text) for text in texts):
        return None
    # A copy: torch takes no arrays that run backwards.
    mask = np.ascontiguousarray(np.flip(target.mask, 1 if direction == "horizontal" else 0))
    words = _MIRRORED[direction]
    question, answer = (_mirror(text, words) for text in texts)
    result = Target(mask, question, answer)
    if (_mirror(question, words), _mirror(answer, words)) != texts:
        return None  # capitals within a word
    names_places = any(_PLACE.search(t.lower()) or _CENTRAL.search(t.lower()) for t in texts)
    if not names_places:
        return result
    if not mask.any() or not (_agrees(target) and _agrees(result)):
        return None
    before, after = position_of(target.mask), position_of(mask)
    mirrored = Position(_mirror(before.zone, words), before.near_center)
    return result if after == mirrored else None


def _agrees(target: Target) -> bool:
    """Whether what the answer says of its place, and any side that a text names, is true of the
    mask."""
    said, true = parse_position(target.answer), position_of(target.mask)
    sides = re.findall(
        rf"\b(?:{_VERTICAL}|{_HORIZONTAL})\b", f"{target.question} {target.answer}".lower()
    )
    if not {_RULE_WORDS.get(side, side) for side in sides} <= set(true.zone.split()):
        return False
    return said.zone in (None, true.zone) and said.near_center in (None, true.near_center)


def _speaks_of_the_image(text: str) -> bool:
    """Whether every word of place in a text means a part of the image."""
    text = text.lower()
    if ANATOMY.search(text) or _SIDE_OF_SOMEBODY.search(text):
        return False
    return not _PLACE.search(_PART_OF_IMAGE.sub(" ", text))


def _mirror(text: str, words: dict[str, str]) -> str:
    """A text with words exchanged, capitals kept."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        new = words[word.lower()]
        if word.isupper():
            return new.upper()
        return new.capitalize() if word[0].isupper() else new

    return re.sub(rf"\b(?:{'|'.join(words)})\b", other, text, flags=re.IGNORECASE)


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
