"""Read the position out of an answer in free text, so that it can be scored."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_VERTICAL = r"top|upper|bottom|lower"
_HORIZONTAL = r"left|right"
_CENTER = r"center|centre|middle|central"
# Between the two words of a corner: "upper-left", "bottom, left", "at the top and to the left".
_GAP = r"[\s,/-]+(?:and\s+)?(?:(?:in|on|at|to|towards?)\s+the\s+)?"

ANATOMY = re.compile(
    rf"\b(?:(?:{_VERTICAL}|{_HORIZONTAL}|{_CENTER})[\s-]+)+"
    r"(?:lungs?|lobes?|breasts?|kidneys?|hemispheres?|ventricles?|atrium|eye|grade|jaw)\b"
)
"""Words of place that belong to the name of a structure ("the left lung", "right upper lobe"): they
say nothing about where it lies in the image. Texts are in small letters."""

# Anything said about nearness to the centre; these words name no zone.
_NEARNESS = re.compile(
    rf"\b(?:(?P<not>not|never)\s+(?:\w+\s+){{0,2}}?)?"
    rf"(?:(?P<near>near|close\s+to|next\s+to|adjacent\s+to)|(?P<far>(?:away|far|distant)\s+from))"
    rf"\s+(?:to\s+)?(?:the\s+)?(?:image\s+)?(?:{_CENTER})\b"
)
_PREPOSITIONS = r"(?:(?:in|at|on|to|within|inside|of|the)\s+)*"
_ZONE = re.compile(
    r"(?P<not>\b(?:not|never|neither|rather\s+than|instead\s+of|outside)\s+"
    r"(?:(?:located|situated|found|seen|visible|lying|either)\s+)*"
    rf"{_PREPOSITIONS})?\b(?:"
    rf"(?P<mixed>(?:{_VERTICAL}|{_HORIZONTAL})[\s-]+(?:{_CENTER})"
    rf"|(?:{_CENTER})[\s-]+(?:{_VERTICAL}|{_HORIZONTAL}))"
    rf"|(?P<v1>{_VERTICAL}){_GAP}(?P<h1>{_HORIZONTAL})"
    rf"|(?P<h2>{_HORIZONTAL}){_GAP}(?P<v2>{_VERTICAL})"
    rf"|(?P<center>{_CENTER}))\b"
)
# "Neither in the top left nor in the center": what follows is denied as well.
_DENIED_TOO = re.compile(
    r"(?:\s+(?:corner|quadrant|part|side))?(?:\s+of\s+the\s+\w+)?"
    rf",?\s*\b(?:n?or)\s+{_PREPOSITIONS}"
)
_PLACES = rf"{_VERTICAL}|{_HORIZONTAL}|{_CENTER}"
# What tells that another finding is spoken of. "The upper third" is a place, "the third" is not.
_FINDING = re.compile(
    rf"(?P<place>\b(?:{_PLACES}|one|two)[\s-]+thirds?\b)"
    r"|\b(?:(?:first|second|third|fourth|fifth|1st|2nd|3rd|4th|5th|last)(?:\s+one)?"
    r"|one|another(?:\s+one)?|the\s+other(?:\s+one)?)\b"
)
_CLAUSE_ENDS = re.compile(r"[.,;:!?\n]+|\b(?:and|while|whereas|but)\b")


@dataclass(frozen=True)
class ParsedPosition:
    """What an answer says about a position."""

    zone: str | None
    """One of `prs_med.data.position.ZONES`; None where no zone or contradicting ones are named."""

    near_center: bool | None
    """Whether it is near the centre; None where neither that nor a zone is said."""


def parse_position(text: str) -> ParsedPosition:
    """Find the zone and the nearness to the centre in an answer, whatever its case.

    "Near the center" names no zone, and a zone that is denied ("not in the top left", "rather than
    in the center") is not named either. An answer that names two zones, or one that the data set
    does not know ("top center"), has none. Answers mention nearness only where it holds, so an
    answer that names a zone and says nothing more is near the centre exactly when the zone is the
    centre.
    """
    text = _prepared(text)
    zones = {zone for _, zone in _zones(_NEARNESS.sub(_blank, text))}
    zone = zones.pop() if len(zones) == 1 else None
    statements = {
        (match["near"] is not None) != (match["not"] is not None)
        for match in _NEARNESS.finditer(text)
    }
    if statements:
        near = statements.pop() if len(statements) == 1 else None
    else:
        near = None if zone is None else zone == "center"
    return ParsedPosition(zone, near)


def parse_positions(text: str) -> tuple[ParsedPosition, ...]:
    """Find the positions of all findings that an answer speaks of, in its order.

    Ordinals and words such as "another" tell the findings apart: "The first is in the top left, the
    second in the center." has two. What is said before them ("There are two tumors.") counts as a
    finding where it names a zone; a finding whose zone is not said, or said in two ways, has none.
    Without such words every zone is a finding of its own, unless it is the one named just before.

    Returns:
        One position for each finding; none where the answer names no zone and tells no findings
        apart. Of an answer about one finding, what :func:`parse_position` reads in it.
    """
    text = _prepared(text)
    found = [match for match in _FINDING.finditer(text) if not match["place"]]
    # A single "one" counts something else: "one centimetre from the border".
    marks = [] if [match[0] for match in found] == ["one"] else [match.start() for match in found]
    parts = _parts_at_marks(text, marks) if marks else _parts_at_zones(text)
    positions = [parse_position(part) for part in parts]
    if marks and positions[0].zone is None:
        del positions[0]
    return tuple(positions)


def _prepared(text: str) -> str:
    """Small letters, negations spelt out, and no words of place that belong to anatomy."""
    return ANATOMY.sub(" ", re.sub(r"n['\u2019]t\b", " not", text.lower()))


def _blank(match: re.Match[str]) -> str:
    """As many blanks, so that places in the text stay what they are."""
    return " " * len(match[0])


def _zones(text: str) -> list[tuple[re.Match[str], str | None]]:
    """The zones that a prepared text names and does not deny, in order; None for one that the data
    set does not know."""
    named = []
    denied_until = -1
    for match in _ZONE.finditer(text):
        between = text[denied_until : match.start()] if denied_until >= 0 else ""
        if match["not"] or (between and _DENIED_TOO.fullmatch(between)):
            denied_until = match.end()
        else:
            denied_until = -1
            named.append((match, _zone(match)))
    return named


def _parts_at_marks(text: str, marks: list[int]) -> list[str]:
    """What is said before the first finding, and what is said of each.

    A finding's part begins with the clause of its mark, since the mark may stand at the end of it
    ("in the top left lies the first").
    """
    # An "and" or a comma within a zone ends no clause.
    held = [match.span() for pattern in (_ZONE, _NEARNESS) for match in pattern.finditer(text)]
    ends = [
        match.end()
        for match in _CLAUSE_ENDS.finditer(text)
        if not any(start <= match.start() < end for start, end in held)
    ]
    cuts: list[int] = []
    for mark in marks:
        clause = max((end for end in ends if end <= mark), default=0)
        cuts.append(mark if cuts and clause <= cuts[-1] else clause)
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _parts_at_zones(text: str) -> list[str]:
    """One part for each zone that differs from the one named before; it begins there, so that what
    follows it ("near the center") is said of it."""
    zones = _zones(_NEARNESS.sub(_blank, text))
    if not zones:
        return []
    cuts = [0]
    for (_, before), (match, zone) in pairwise(zones):
        if zone != before:
            cuts.append(match.start())
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _zone(match: re.Match[str]) -> str | None:
    """The zone a match names; None for one outside the data set's five."""
    if match["mixed"]:
        return None
    if match["center"]:
        return "center"
    vertical = "top" if (match["v1"] or match["v2"]) in ("top", "upper") else "bottom"
    return f"{vertical} {match['h1'] or match['h2']}"
