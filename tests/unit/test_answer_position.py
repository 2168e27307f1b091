"""Positions read out of free text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.data.answer_position import ParsedPosition, parse_position, parse_positions
from prs_med.data.position import ZONES, Position, describe, position_statement

NAMES = (
    "tumor",
    "left lung",
    "right lung",
    "lower-grade glioma",
    "right upper lobe opacity",
    "nodule",
)


@st.composite
def positions(draw: st.DrawFn) -> Position:
    zone = draw(st.sampled_from(ZONES))
    return Position(zone, zone == "center" or draw(st.booleans()))


@given(st.sampled_from(NAMES), positions())
def test_reads_back_what_the_rule_writes(name: str, position: Position) -> None:
    expected = ParsedPosition(position.zone, position.near_center)
    answer, statement = describe(name, position), position_statement(name, position)
    assert parse_position(answer) == expected
    assert parse_position(answer.upper()) == expected
    assert parse_position(statement) == expected
    assert parse_position(f"{answer} {statement}") == expected


@pytest.mark.parametrize(
    ("text", "zone", "near"),
    [
        ("It is in the upper-left corner.", "top left", False),
        ("Lower right, close to the centre", "bottom right", True),
        ("the LEFT LOWER quadrant", "bottom left", False),
        ("at the bottom and left", "bottom left", False),
        ("In the middle of the image.", "center", True),
        ("located centrally? It is in the central part", "center", True),
        ("top right, not near the center", "top right", False),
        ("top right; it isn't near the center", "top right", False),
        ("It isn\u2019t in the top left, it is in the lower left", "bottom left", False),
        ("top right, away from the centre", "top right", False),
        ("top right and not far from the center", "top right", True),
        ("Near the center.", None, True),
        ("It is far from the center.", None, False),
        ("not in the top left but in the bottom right", "bottom right", False),
        ("It is in the top left. Yes, the upper left.", "top left", False),
    ],
)
def test_wordings(text: str, zone: str | None, near: bool | None) -> None:
    assert parse_position(text) == ParsedPosition(zone, near)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see a tumor.",
        "It is on the left.",
        "It is in the left lung.",
        "In the top left or in the bottom right.",
        "In the top left, or in the center.",
        "In the top center of the image.",
        "In the center left of the image.",
        "The stopped lefty epicenter.",
        "not in the top left",
    ],
)
def test_no_clear_zone(text: str) -> None:
    assert parse_position(text) == ParsedPosition(None, None)


def test_contradicting_nearness_is_unknown() -> None:
    text = "Top left, near the center. It is away from the center."
    assert parse_position(text) == ParsedPosition("top left", None)


@given(st.text())
def test_any_text_gets_an_answer(text: str) -> None:
    parsed = parse_position(text)
    assert parsed.zone is None or parsed.zone in ZONES


SYNONYMS = {
    "top": ("top", "upper"),
    "bottom": ("bottom", "lower"),
    "left": ("left",),
    "right": ("right",),
    "center": ("center", "centre", "middle"),
}
NEAR = ("near the {}", "close to the {}", "next to the image {}", "not far from the {}")
FAR = ("not near the {}", "away from the {}", "far from the {}", "never close to the {}")
PLACED = ("in the {}", "in the {} of the image", "at the {} corner", "within the {} part")
ORDINALS = ("first", "second", "third", "fourth")


@st.composite
def places(draw: st.DrawFn, zone: str) -> str:
    """Words for a zone."""
    words = [draw(st.sampled_from(SYNONYMS[word])) for word in zone.split()]
    if len(words) == 2:
        if draw(st.booleans()):
            words.reverse()
        glue = draw(st.sampled_from([" ", "-", "/", ", ", " and ", " and to the "]))
        return glue.join(words)
    return words[0]


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, Position]:
    """Where something is, in words that deny other places, and the position they mean."""
    position = draw(positions())
    text = draw(st.sampled_from(PLACED)).format(draw(places(position.zone)))
    other = draw(st.sampled_from([zone for zone in ZONES if zone != position.zone]))
    third = draw(st.sampled_from([zone for zone in ZONES if zone != position.zone]))
    denied = draw(
        st.sampled_from(
            [
                "",
                "not {a} but ",
                "not located {a} but ",
                "neither {a} nor {b} but ",
                "never {a} or {b}, ",
            ]
        )
    )
    denied = denied.format(a=f"in the {draw(places(other))}", b=f"in the {draw(places(third))}")
    if draw(st.booleans()) and not denied:
        text += draw(st.sampled_from([" rather than", " instead of", ", not"]))
        text += f" in the {draw(places(other))}"
    if position.zone != "center":
        near = "" if not position.near_center else draw(st.sampled_from(NEAR))
        if not position.near_center and draw(st.booleans()):
            near = draw(st.sampled_from(FAR))
        center = draw(st.sampled_from(SYNONYMS["center"]))
        text += f", {near.format(center)}" if near else ""
    return denied + text, position


def parsed(position: Position) -> ParsedPosition:
    return ParsedPosition(position.zone, position.near_center)


@given(statements(), st.sampled_from(NAMES), st.booleans())
def test_synonyms_and_denials(statement: tuple[str, Position], name: str, loud: bool) -> None:
    words, position = statement
    text = f"The {name} is {words}."
    text = text.upper() if loud else text
    assert parse_position(text) == parsed(position)
    assert parse_positions(text) == (parsed(position),)


@given(st.lists(statements(), min_size=2, max_size=4), st.sampled_from(NAMES), st.data())
def test_findings_are_told_apart_in_order(
    findings: list[tuple[str, Position]], name: str, data: st.DataObject
) -> None:
    style = data.draw(st.sampled_from(["ordinals", "numbered clauses", "one and another"]))
    if style == "one and another":
        marks = ["One is", *["another one is"] * (len(findings) - 1)]
    else:
        marks = [
            f"the {ordinal} {name} lies" if data.draw(st.booleans()) else f"the {ordinal} one is"
            for ordinal in ORDINALS[: len(findings)]
        ]
    glue = data.draw(st.sampled_from([", ", "; ", ". ", ", and ", " and ", " while ", "\n"]))
    opening = data.draw(st.sampled_from(["", "There are several findings. ", "I see: "]))
    text = opening + glue.join(
        f"{mark} {words}" for mark, (words, _) in zip(marks, findings, strict=True)
    )
    assert parse_positions(text) == tuple(parsed(position) for _, position in findings)


@given(st.lists(st.sampled_from(ZONES), min_size=1, max_size=5), st.data())
def test_without_words_that_count_each_other_zone_is_a_finding(
    zones: list[str], data: st.DataObject
) -> None:
    text = "There are nodules " + " and ".join(
        f"in the {data.draw(places(zone))} of the image" for zone in zones
    )
    different = [zone for i, zone in enumerate(zones) if i == 0 or zones[i - 1] != zone]
    assert [finding.zone for finding in parse_positions(text)] == different


@pytest.mark.parametrize(
    ("text", "zones"),
    [
        ("", []),
        ("I cannot see a tumor.", []),
        ("In the top left lies the first, in the bottom right the second.",
         ["top left", "bottom right"]),
        ("At the bottom and left lies the first, at the top and right the second.",
         ["bottom left", "top right"]),
        ("The tumor is in the top left, another in the center.", ["top left", "center"]),
        ("The first is in the upper third on the left, the second at the bottom and left.",
         [None, "bottom left"]),
        ("The first is top left, the second is not visible.", ["top left", None]),
        ("The first is top left or bottom right, the second in the center.", [None, "center"]),
        ("One is in the top left, the other also in the top left.", ["top left", "top left"]),
        ("It is in the top left, one centimetre from the border.", ["top left"]),
        ("It is in the top left. Yes, the upper left.", ["top left"]),
        ("In the top center and in the bottom right.", [None, "bottom right"]),
        ("The left lung shows one in the top left and another in the right lower lobe.",
         ["top left", None]),
    ],
)  # fmt: skip
def test_findings_in_other_wordings(text: str, zones: list[str | None]) -> None:
    assert [finding.zone for finding in parse_positions(text)] == zones


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("outside the center, in the top left", "top left"),
        (
            "not in the top left corner of the image or the bottom right, but in the center",
            "center",
        ),
        ("neither top left nor bottom left", None),
        ("at the top and to the left", "top left"),
        ("towards the bottom, on the right", "bottom right"),
    ],
)
def test_more_denials_and_corners(text: str, zone: str | None) -> None:
    assert parse_position(text).zone == zone


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("Top left, bottom right.", [("top left", False), ("bottom right", False)]),
        ("Top left, another in the center.", [("top left", False), ("center", True)]),
        ("In the top left,another in the center.", [("top left", False), ("center", True)]),
        ("Top left one, another in the center.", [("top left", False), ("center", True)]),
        ("the first top left the second bottom right",
         [("top left", False), ("bottom right", False)]),
        ("In the top left, near the center, and in the bottom right, away from the center.",
         [("top left", True), ("bottom right", False)]),
    ],
)  # fmt: skip
def test_what_is_said_of_a_finding_is_not_cut_off(
    text: str, positions: list[tuple[str, bool]]
) -> None:
    assert parse_positions(text) == tuple(ParsedPosition(*position) for position in positions)


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("? or in the top left", "top left"),
        ("? of the center or in the top left", None),
    ],
)
def test_what_stands_at_the_beginning_denies_nothing(text: str, zone: str | None) -> None:
    assert parse_position(text).zone == zone


@given(st.text())
def test_any_text_has_findings(text: str) -> None:
    for finding in parse_positions(text):
        assert finding.zone is None or finding.zone in ZONES
