"""Texts whose words of place can be mirrored: a closed list.

Every word of such a text is on the list below, or is a side of the image ("top left", "on the left
side of the image"), as :mod:`prs_med.data.answer_grammar` reads it. Of any other word nobody knows
whether it is still true of the mirrored image: "extends inferiorly", "nasal to the optic disc",
"the left lung". Texts are taken to be English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from prs_med.data.answer_grammar import Token, plain, tokens_of
from prs_med.data.answer_position import ENGLISH
from prs_med.data.position_words import words_of

MIRRORED = {
    "horizontal": {"left": "right", "right": "left"},
    "vertical": {"top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"},
}
"""What a flip exchanges, by its direction."""

_SIDES = frozenset(word for words in MIRRORED.values() for word in words)

_UNMOVED = """
    a an the this that these there here it its they which what where who how many much any some
    is are was be can could do does did has have you i we one two three four five please
    first second third fourth fifth last another other both each all several
    identify locate find found see seen show shows shown contain contains point out segment
    describe tell give name look looking lie lies located situated visible present appear appears
    detect detected observe observed outline mark
    of in on at to and or with through within from near close next away far not no yes but
    position location region part area corner side half quadrant place center centre middle central
    image picture scan slice view frame photo photograph radiograph sonogram ct mri mr xray x ray
    computed tomography magnetic resonance ultrasound endoscope endoscopic endoscopy skin
    counted among five largest
    tumor tumors tumour tumours lesion lesions mass masses nodule nodules polyp polyps opacity
    opacities cyst cysts finding findings infection infections neoplasm carcinoma melanoma glioma
    abnormality abnormalities structure structures tooth teeth prostate lung lungs brain breast
    liver heart kidney covid 19 neoplastic non enhancing benign malignant core edema whole
    small large round oval
"""
UNMOVED = frozenset(_UNMOVED.split())
"""Words that are as true of a mirrored image as of the image itself."""


def mirrored_text(text: str, direction: str) -> str | None:
    """A text with its sides exchanged; None where it holds a word that is not on the list.

    Args:
        text: a question or an answer.
        direction: ``horizontal`` or ``vertical``.
    """
    if not words_can_be_mirrored(text):
        return None
    return _mirror(text, MIRRORED[direction])


def sides_in(text: str) -> set[str]:
    """The sides that a text names, in the words of the rule."""
    instead = {"upper": "top", "lower": "bottom"}
    return {instead.get(word, word) for word in words_of(text) if word in _SIDES}


@lru_cache(65536)
def words_can_be_mirrored(text: str) -> bool:
    """Whether every word of a text is on the list or a side of the image."""
    if plain(text) != text.lower() or "_" in text:
        return False  # contractions, signs and letters that the grammar reads as something else
    (english,) = ENGLISH
    tokens = tokens_of(text.lower(), english)
    outside = _outside_places(text.lower(), tokens)
    named = [token for token in tokens if token.letter in "ZY"]
    return (
        set(words_of(outside)) <= UNMOVED
        and not any(_is_of_something_else(tokens, token) for token in named)
        and not re.search(r"[^\x20-\x7e]|\d'|[<>%]", text)
        and _has_plain_capitals(text)
    )


def _outside_places(text: str, tokens: Sequence[Token]) -> str:
    """What a text says beside its places of the image."""
    parts = []
    at = 0
    for token in tokens:
        if token.letter in "ZY" and _is_whole(text, token):
            parts.append(text[at : token.start])
            at = token.end
    return " ".join([*parts, text[at:]]).replace("close-up", " ")


def _is_whole(text: str, token: Token) -> bool:
    """Whether a unit names a part of the image: two sides may stand alone, one must say so."""
    words = set(words_of(text[token.start : token.end]))
    says_part = token.of_image or bool(words & {"side", "half", "corner", "part", "quadrant"})
    return words <= UNMOVED | _SIDES and (token.zone is not None or says_part)


def _is_of_something_else(tokens: Sequence[Token], place: Token) -> bool:
    """Whether a place is one of another thing than the image: "the left side of the abdomen"."""
    after = [token for token in tokens if token.start >= place.end][:3]
    letters = "".join(token.letter for token in after)
    return bool(re.match(r"[,/]?[f>n]d?[uFgq]|[uFg]", letters)) or letters.startswith(">")


def _has_plain_capitals(text: str) -> bool:
    """Whether the sides in a text are in small letters, in capitals, or begin with one."""
    words = re.findall(r"[A-Za-z]+", text)
    sides = [word for word in words if word.lower() in _SIDES]
    return all(word in (word.lower(), word.upper(), word.capitalize()) for word in sides)


def _mirror(text: str, words: dict[str, str]) -> str:
    """A text with words exchanged, capitals kept."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        new = words[word.lower()]
        if word.isupper():
            return new.upper()
        return new.capitalize() if word[0].isupper() else new

    return re.sub(rf"\b(?:{'|'.join(words)})\b", other, text, flags=re.IGNORECASE)
