"""What questions about a structure and their answers are worded like.

The wording is chosen by a hash of a key, so that it stays the same whatever else is in the data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from prs_med.data.answer_position import ParsedPosition, parse_position
from prs_med.data.position import ZONES, Position, position_statement

STRUCTURES = {
    "brain_tumors_ct_scan": "tumor",
    "breast_tumors_ct_scan": "tumor",
    # Covers teeth, crowns and decay in them: which of these a mask shows, the files do not tell.
    "dental_xray": "tooth structure",
    "head_and_neck": "tumor",
    "lung_CT": "tumor",
    # What infections and other diseases look like on a radiograph.
    "lung_Xray": "opacity",
    "polyp_endoscopy": "polyp",
    "prostate": "prostate",
    "skin_rgbimage": "skin lesion",
}
"""What the masks of the published tasks show."""

OTHER_STRUCTURE = "finding"
"""What the masks of any other task show."""

ORDINALS = ("first", "second", "third", "fourth", "fifth")
"""The structures of one image that questions can tell apart."""

GENERAL_QUESTIONS = (
    "Where is {target} located in this image?",
    "Can you identify the position of {target}?",
    "In which part of the image is {target} found?",
    "Please locate {target} in this image.",
    "Which region of the image contains {target}?",
    "What is the position of {target} in this image?",
    "Point out where {target} lies.",
    "Segment {target} and describe its position.",
)
"""Questions about an image of any kind."""

KIND_QUESTIONS = {
    "CT": (
        "In this CT slice, where is {target}?",
        "Which part of this CT image shows {target}?",
        "On this computed tomography slice, where does {target} lie?",
    ),
    "MRI": (
        "In this MRI slice, where is {target}?",
        "Which part of this MR image shows {target}?",
        "On this magnetic resonance image, where does {target} lie?",
    ),
    "X-ray": (
        "On this X-ray, where is {target}?",
        "Which part of this radiograph shows {target}?",
        "Looking at this X-ray image, where do you see {target}?",
    ),
    "ultrasound": (
        "In this ultrasound image, where is {target}?",
        "Which part of this sonogram shows {target}?",
        "On this ultrasound scan, where does {target} lie?",
    ),
    "endoscopy": (
        "In this endoscopic view, where is {target}?",
        "Which part of this endoscopy image shows {target}?",
        "Looking through the endoscope, where do you see {target}?",
    ),
    "skin": (
        "In this picture of the skin, where is {target}?",
        "Which part of this skin image shows {target}?",
        "On this close-up of the skin, where does {target} lie?",
    ),
}
"""Questions that name the kind of image, by kind."""

# The names of two published tasks say CT and mean something else. What head_and_neck and prostate
# were taken with, the data do not tell, so no question says it.
_KINDS_OF_TASKS = {
    "brain_tumors_ct_scan": "MRI",
    "breast_tumors_ct_scan": "ultrasound",
}
# The codes of two letters are DICOM's.
_KIND_WORDS = {
    "CT": {"ct", "cect", "ncct", "cbct"},
    "MRI": {"mri", "mr", "fmri", "flair", "t1", "t2", "t1w", "t2w", "dwi", "adc"},
    "X-ray": {"xray", "xrays", "cxr", "radiograph", "radiography", "mammography", "cr", "dx", "mg"},
    "ultrasound": {"ultrasound", "us", "sonography", "sonogram", "ultrasonography"},
    "endoscopy": {"endoscopy", "endoscope", "endoscopic", "colonoscopy", "gastroscopy", "es"},
    "skin": {"skin", "dermoscopy", "dermoscopic", "dermatoscopy", "dermatology"},
    # Of these there are no questions, but a PET-CT is no CT either.
    "": {"pet", "pt", "spect"},
}


@dataclass(frozen=True)
class _Answer:
    """A wording of the answer, with what follows where it is near the centre or away from it.

    The centre itself is near by definition and says so only where its own text is given.
    """

    text: str
    near: str
    center: str = ""
    away: str = ""

    def words(self, name: str, position: Position) -> str:
        if position.zone == "center":
            end = self.center
        else:
            end = self.near if position.near_center else self.away
        return self.text.format(name=name, zone=position.zone, end=end)


ANSWERS = (
    # The published wording, as `prs_med.data.position.describe` has it.
    _Answer(
        "The {name} is located in the {zone} of the image{end}.",
        near=", near the center",
        center=", near the center",
    ),
    _Answer("The {name} lies in the {zone} of the image{end}.", near=" and is near the center"),
    _Answer("The image shows the {name} in the {zone}{end}.", near=", close to the center"),
    _Answer(
        "You can find the {name} in the {zone} of the image{end}.", near=", near the image center"
    ),
    _Answer(
        "The {name} appears in the {zone} of the image{end}.",
        near=", near the center",
        away=", away from the center",
    ),
)
"""Wordings of the answer."""


def structure_of(task: str) -> str:
    """What the masks of a task show, in the singular."""
    return STRUCTURES.get(task, OTHER_STRUCTURE)


def kind_of(modality: str, task: str) -> str:
    """The kind of image, a key of :data:`KIND_QUESTIONS`, that the name of a modality tells, or
    else that of a task; empty where neither does, or where a name tells two."""
    for name in (modality, task):
        if name in _KINDS_OF_TASKS:
            return _KINDS_OF_TASKS[name]
        text = re.sub(r"x[\s_-]*(?=rays?)", "x", name.lower())
        words = set(re.findall(r"[a-z]+\d?[a-z]?|\d+", text))
        kinds = [kind for kind, known in _KIND_WORDS.items() if known & words]
        if kinds:
            return kinds[0] if len(kinds) == 1 else ""
    return ""


def questions_and_answers(
    name: str, counted: str, kind: str, position: Position, key: str, count: int
) -> list[tuple[str, str]]:
    """Differently worded questions about one structure, with their answers.

    Args:
        name: name of the structure without article: ``tumor``, ``second tumor``.
        counted: how an ordinal in the name is counted; empty where there is none.
        kind: kind of the image, as :func:`kind_of` gives it.
        position: where the structure lies.
        key: decides between the wordings.
        count: how many questions, at most ``len(GENERAL_QUESTIONS)``.
    """
    target = f"the {name} ({counted})" if counted else f"the {name}"
    questions = _shuffled([*GENERAL_QUESTIONS, *KIND_QUESTIONS.get(kind, ())], f"{key}\0question")
    answers = answers_about(name, position)
    order = _shuffled([answer.text for answer in ANSWERS], f"{key}\0answer")
    texts = dict(zip((answer.text for answer in ANSWERS), answers, strict=True))
    return [
        (question.format(target=target), texts[order[number % len(order)]])
        for number, question in enumerate(questions[:count])
    ]


def answers_about(name: str, position: Position) -> list[str]:
    """The answer in every wording of :data:`ANSWERS`."""
    return [answer.words(name, position) for answer in ANSWERS]


def is_readable(name: str) -> bool:
    """Whether the zone and the nearness can be read out of every answer about this structure.

    A name with a place, a denial or a doubt in it ("lesion in the top right") hides them.
    """
    positions = [Position(zone, near_center=True) for zone in ZONES]
    positions += [Position(zone, near_center=False) for zone in ZONES if zone != "center"]
    return all(
        parse_position(text) == ParsedPosition(position.zone, position.near_center)
        for ordinal in ("", *(f"{word} " for word in ORDINALS))
        for position in positions
        for text in (
            *answers_about(ordinal + name, position),
            position_statement(ordinal + name, position),
        )
    )


def _shuffled(texts: Sequence[str], key: str) -> list[str]:
    """The texts in an order that the key decides; one more would move none past another."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{key}\0{text}".encode()).digest())
