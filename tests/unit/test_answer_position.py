"""Positions read out of free text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.data.answer_position import ParsedPosition, parse_position
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
