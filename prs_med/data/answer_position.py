"""Read the position out of an answer in free text, so that it can be scored."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERTICAL = r"top|upper|bottom|lower"
_HORIZONTAL = r"left|right"
_CENTER = r"center|centre|middle|central"
_GAP = r"[\s,/-]+(?:and\s+)?"

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
_ZONE = re.compile(
    r"(?P<not>\b(?:not|never)\s+(?:(?:located|found|in|at|on|the)\s+)*)?\b(?:"
    rf"(?P<mixed>(?:{_VERTICAL}|{_HORIZONTAL})[\s-]+(?:{_CENTER})"
    rf"|(?:{_CENTER})[\s-]+(?:{_VERTICAL}|{_HORIZONTAL}))"
    rf"|(?P<v1>{_VERTICAL}){_GAP}(?P<h1>{_HORIZONTAL})"
    rf"|(?P<h2>{_HORIZONTAL}){_GAP}(?P<v2>{_VERTICAL})"
    rf"|(?P<center>{_CENTER}))\b"
)


@dataclass(frozen=True)
class ParsedPosition:
    """What an answer says about a position."""

    zone: str | None
    """One of `prs_med.data.position.ZONES`; None where no zone or contradicting ones are named."""

    near_center: bool | None
    """Whether it is near the centre; None where neither that nor a zone is said."""


def parse_position(text: str) -> ParsedPosition:
    """Find the zone and the nearness to the centre in an answer, whatever its case.

    "Near the center" names no zone, and a zone that is denied ("not in the top left") is not named
    either. An answer that names two zones, or one that the data set does not know ("top center"),
    has none. Answers mention nearness only where it holds, so an answer that names a zone and says
    nothing more is near the centre exactly when the zone is the centre.
    """
    text = ANATOMY.sub(" ", re.sub(r"n['\u2019]t\b", " not", text.lower()))
    zones = {_zone(match) for match in _ZONE.finditer(_NEARNESS.sub(" ", text)) if not match["not"]}
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


def _zone(match: re.Match[str]) -> str | None:
    """The zone a match names; None for one outside the data set's five."""
    if match["mixed"]:
        return None
    if match["center"]:
        return "center"
    vertical = "top" if (match["v1"] or match["v2"]) in ("top", "upper") else "bottom"
    return f"{vertical} {match['h1'] or match['h2']}"
