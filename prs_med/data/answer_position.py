"""Read the position out of an answer in free text, so that it can be scored.

What is understood is a closed list: the words of :mod:`prs_med.data.position_words` in the forms of
:mod:`prs_med.data.answer_grammar`. An answer that says anything else about a place is unclear, and
has no zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prs_med.data.answer_grammar import Statement, Token, plain, tokens_of, understand
from prs_med.data.position_words import PositionWords, packaged_words

ENGLISH = (packaged_words("en"),)
"""The tables by which answers are read where nothing else is said."""


@dataclass(frozen=True)
class ParsedPosition:
    """What an answer says about a position."""

    zone: str | None
    """One of `prs_med.data.position.ZONES`; None where it is unclear: no zone is named, several
    are, or the words are not understood."""

    near_center: bool | None
    """Whether it is near the centre; None where neither that nor a zone is said."""


_UNCLEAR = ParsedPosition(None, None)


def parse_position(text: str, tables: Sequence[PositionWords] = ENGLISH) -> ParsedPosition:
    """Find the zone and the nearness to the centre in an answer, whatever its case.

    "Near the center" names no zone, and a zone that is denied ("not in the top left", "rather than
    in the center") is not named either. An answer that names two zones, or one that the data set
    does not know ("top center"), has none. Answers mention nearness only where it holds, so an
    answer that names a zone and says nothing more is near the centre exactly when the zone is the
    centre.

    Args:
        text: the answer.
        tables: words of the languages that it may be in. Where two of them read two positions in
            it, it is unclear.
    """
    read = {_position_of(tokens_of(plain(text), table)) for table in tables}
    return _agreed(read)


def parse_positions(
    text: str, tables: Sequence[PositionWords] = ENGLISH
) -> tuple[ParsedPosition, ...]:
    """Find the positions of all findings that an answer speaks of, in its order.

    Ordinals and words such as "another" tell the findings apart: "The first is in the top left, the
    second in the center." has two. What is said before them ("There are two tumors.") counts as a
    finding where it names a zone; a finding whose zone is not said, or said in two ways, has none.
    Without such words every zone is a finding of its own, unless it is the one named just before.

    Returns:
        One position for each finding; none where the answer names no zone and tells no findings
        apart. Of an answer about one finding, what :func:`parse_position` reads in it.
    """
    read = {_positions_of(text, tokens_of(plain(text), table)) for table in tables}
    named = {positions for positions in read if any(one.zone for one in positions)}
    if len(named) == 1:
        return named.pop()
    if named:
        return (_UNCLEAR,)
    return max(read, key=len)


def _agreed(read: set[ParsedPosition]) -> ParsedPosition:
    """What the tables that understand an answer read in it."""
    named = {position for position in read if position.zone} or read - {_UNCLEAR}
    return named.pop() if len(named) == 1 else _UNCLEAR


def _position_of(tokens: Sequence[Token]) -> ParsedPosition:
    read = understand(tokens)
    return _position_in(read.statements) if read.whole else _UNCLEAR


def _position_in(statements: Sequence[Statement]) -> ParsedPosition:
    """The position that statements about one finding give."""
    places = [one.token for one in statements if one.about == "place"]
    zones = {token.zone for token in places}
    zone = zones.pop() if len(zones) == 1 else None
    if any(one.about == "organ" for one in statements) and not all(t.of_image for t in places):
        zone = None  # "in the left lung, top left": of which?
    said = {one.token.near for one in statements if one.about == "nearness"}
    if said:
        near = said.pop() if len(said) == 1 else None
    else:
        near = None if zone is None else zone == "center"
    return _UNCLEAR if zone == "center" and near is False else ParsedPosition(zone, near)


def _positions_of(text: str, tokens: Sequence[Token]) -> tuple[ParsedPosition, ...]:
    marks = _marks(plain(text), tokens)
    if not marks:
        return _positions_by_zone(tokens)
    positions = [_position_of(part) for part in _parts_at_marks(tokens, marks)]
    if positions[0].zone is None:
        del positions[0]
    return tuple(positions)


def _marks(text: str, tokens: Sequence[Token]) -> list[int]:
    """The tokens that tell findings apart, of each run of them the first."""
    counted = [at for at, token in enumerate(tokens) if token.letter == "o"]
    marks = [at for at in counted if at - 1 not in counted]
    # A single "one" counts something else: "one centimetre from the border".
    if len(marks) == 1 and text[tokens[marks[0]].start : tokens[marks[0]].end] == "one":
        return [] if marks[0] + 1 not in counted else marks
    return marks


def _parts_at_marks(tokens: Sequence[Token], marks: Sequence[int]) -> list[Sequence[Token]]:
    """What is said before the first finding, and what is said of each.

    A finding's part begins with the clause of its mark, since the mark may stand at the end of it
    ("in the top left lies the first").
    """
    ends = [at + 1 for at, token in enumerate(tokens) if token.letter in ".,:?kb"]
    cuts: list[int] = []
    for mark in marks:
        clause = max((end for end in ends if end <= mark), default=0)
        cuts.append(mark if cuts and clause <= cuts[-1] else clause)
    return [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]


def _positions_by_zone(tokens: Sequence[Token]) -> tuple[ParsedPosition, ...]:
    """A position for each zone that differs from the one named before, with what follows it ("near
    the center")."""
    read = understand(tokens)
    places = [one for one in read.statements if one.about == "place"]
    if not read.whole:
        return (_UNCLEAR,) if places else ()
    groups: list[list[Statement]] = []
    before: list[Statement] = []
    for one in read.statements:
        if one.about != "place":
            (groups[-1] if groups else before).append(one)
        elif groups and _zone_of(groups[-1]) == one.token.zone:
            groups[-1].append(one)
        else:
            groups.append([*before, one] if not groups else [one])
    return tuple(_position_in(group) for group in groups)


def _zone_of(group: Sequence[Statement]) -> str | None:
    return next(one.token.zone for one in group if one.about == "place")
