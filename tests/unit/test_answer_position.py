"""Positions read out of free text."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prs_med.data.answer_position import ParsedPosition, parse_position, parse_positions
from prs_med.data.position import ZONES, Position, describe, position_statement
from prs_med.data.position_words import position_words
from prs_med.data.question_templates import (
    ORDINALS as COUNTED,
)
from prs_med.data.question_templates import (
    OTHER_STRUCTURE,
    STRUCTURES,
    answers_about,
)

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


@settings(max_examples=50)
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


@settings(max_examples=50)
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


@settings(max_examples=50)
@given(statements(), st.sampled_from(NAMES), st.booleans())
def test_synonyms_and_denials(statement: tuple[str, Position], name: str, loud: bool) -> None:
    words, position = statement
    text = f"The {name} is {words}."
    text = text.upper() if loud else text
    assert parse_position(text) == parsed(position)
    assert parse_positions(text) == (parsed(position),)


@settings(max_examples=50)
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


@settings(max_examples=50)
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
        ("In the top left, near the center, and in the bottom right, away from the center.",
         [("top left", True), ("bottom right", False)]),
    ],
)  # fmt: skip
def test_what_is_said_of_a_finding_is_not_cut_off(
    text: str, positions: list[tuple[str, bool]]
) -> None:
    assert parse_positions(text) == tuple(ParsedPosition(*position) for position in positions)


@given(st.text())
def test_any_text_has_findings(text: str) -> None:
    for finding in parse_positions(text):
        assert finding.zone is None or finding.zone in ZONES


EVERY_POSITION = [
    Position(zone, near) for zone in ZONES for near in (True, False) if near or zone != "center"
]
NAMES_OF_TASKS = sorted({*STRUCTURES.values(), OTHER_STRUCTURE})


@pytest.mark.parametrize("position", EVERY_POSITION, ids=str)
def test_every_answer_of_our_own_is_read_back(position: Position) -> None:
    for name in (*NAMES_OF_TASKS, *NAMES):
        for counted in ("", *(f"{word} " for word in COUNTED)):
            for answer in (
                *answers_about(counted + name, position),
                describe(counted + name, position),
                position_statement(counted + name, position),
            ):
                assert parse_position(answer) == parsed(position), answer


def test_real_answers_are_read_as_their_positions_say(sample_data: Path) -> None:
    rows = [
        row
        for path in (sample_data / "real" / "annotations").glob("*.csv")
        for row in csv.DictReader(path.open(encoding="utf-8"))
    ]
    assert len(rows) == 16
    for row in rows:
        zone = next(zone for zone in ZONES if f" is {zone} and " in row["position"])
        near = "near the center" in row["position"]
        assert parse_position(row["answer"]) == ParsedPosition(zone, near), row["answer"]
        assert parse_position(row["position"]) == ParsedPosition(zone, near)


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        # Split over two parts of a sentence.
        ("It is in the upper part, on the left side.", "top left"),
        ("The lesion is on the left side of the image, in the upper part.", "top left"),
        ("The lesion is in the upper half of the image and on the left side.", "top left"),
        # Dashes of all kinds, invisible signs, other letters.
        ("top\u2013left", "top left"),
        ("top\u2014left", "top left"),
        ("top\u2011left", "top left"),
        ("top \u2212 left", "top left"),
        ("top\u00adleft", "top left"),
        ("\uff34\uff4f\uff50 left", "top left"),
        ("**Top left**", "top left"),
        # The centre in other words.
        ("The polyp is centrally located.", "center"),
        ("The lesion is located centrally in the image.", "center"),
        ("The lesion is in the central part of the image.", "center"),
        # What is denied is not meant, wherever the denial stands.
        ("It cannot be seen in the center; it is in the top left.", "top left"),
        ("It can't be seen in the center, it's in the top left.", "top left"),
        ("No lesion is visible in the center, but one in the top left.", "top left"),
        ("The center is clear, and the lesion is in the top left.", "top left"),
        ("It is not in the bottom right, the center or the top right, but in the top left.",
         "top left"),
        ("It is absent from the center and is seen in the top left.", "top left"),
        # Anatomy is no place.
        ("The aneurysm of the middle cerebral artery is in the top left.", "top left"),
        ("The middle cerebral artery is seen in the top left of the image.", "top left"),
        ("The left lung is located in the top right of the image.", "top right"),
        ("The mass in the left breast is in the top right of the image.", "top right"),
        ("The mass is in the left lung, in the top right of the image.", "top right"),
        ("The central venous catheter is seen in the top left.", "top left"),
        # Other sentences around it.
        ("In the top left of the image there is a tumor.", "top left"),
        ("On this MRI slice, the tumor lies in the top left.", "top left"),
        ("It is in the top left. It looks malignant and a biopsy is needed.", "top left"),
        ("It is in the top left. No other lesion is visible.", "top left"),
        ("It is in the upper left-hand corner, measuring 3 cm.", "top left"),
        ("Is it in the center? It is in the top left.", "top left"),
    ],
)  # fmt: skip
def test_what_is_understood(text: str, zone: str) -> None:
    assert parse_position(text).zone == zone


@pytest.mark.parametrize(
    "text",
    [
        "It is just left of the center.",
        "It is slightly off-center.",
        "Above the center.",
        "It is between the center and the top left.",
        "It is in the center, slightly to the left.",
        "It is right in the center.",
        "It is near the top left.",
        "It extends from the center to the top left.",
        "It might be in the top left.",
        "It is probably in the top left.",
        "It is in the top left, or so I think.",
        "If anything, it is in the top left.",
        "Is it in the top left?",
        "It is in the top left. That is wrong.",
        "It was in the bottom right but is now in the top left.",
        "It is anything but in the top left.",
        "It is nowhere in the top left.",
        "No lesion is visible in the top left.",
        "There isn't a tumor in the top left.",
        "The absence of a lesion in the top left is noted.",
        "The tumor spares structures in the top left.",
        "The top left is free.",
        "It is not in the top left, the center.",
        "Neither the center nor the top left shows a lesion.",
        "The lesion is at the top of the left kidney.",
        "It is at the top left of the right lung.",
        "It is in the upper left lobe.",
        "It is in the upper outer quadrant of the left breast.",
        "In the left lung, top left.",
        "The lesion is in the middle of the left side.",
        "The top left lesion is large.",
        "It is in the center of the image, away from the center.",
        "The tumor will be in the top left.",
        "The tumor seldom is in the top left.",
        "The tumor had been in the top left.",
        "Possible lesion in the top left.",
        "Rule out lesion in the top left.",
    ],
)
def test_anything_else_is_unclear(text: str) -> None:
    assert parse_position(text).zone is None


SUBJECTS = ("It", "The tumor", "The left lung", "A lesion of the kidney", "The middle artery")
VERBS = ("is", "lies", "is located", "is situated", "can be seen", "appears", "is found")
OTHER_WORDS = """
    just slightly off almost not never no without hardly possibly probably maybe if
    above below between beside from outside near opposite towards into except only
    top bottom left right upper lower center middle central image lung kidney of the
    and or but it is was extends spares, . ; : ? - tumor wrong clear artery
""".split()  # noqa: SIM905


@settings(max_examples=300)
@given(st.sampled_from(SUBJECTS), st.sampled_from(VERBS), statements(), st.booleans())
def test_sentences_of_the_list_are_read_right(
    subject: str, verb: str, statement: tuple[str, Position], question: bool
) -> None:
    words, position = statement
    text = f"{subject} {verb} {words}."
    if question:
        text = f"Where is it? {text} It is large."
    assert parse_position(text) == parsed(position)


@settings(max_examples=600)
@given(st.sampled_from(SUBJECTS), st.sampled_from(VERBS), st.data())
def test_a_word_too_many_never_makes_another_zone(
    subject: str, verb: str, data: st.DataObject
) -> None:
    """Put anywhere into a sentence that says top left, other words make it unclear, or leave it."""
    words = f"{subject} {verb} in the top left of the image".split()
    for _ in range(data.draw(st.integers(1, 2))):
        word = data.draw(st.sampled_from(OTHER_WORDS))
        words.insert(data.draw(st.integers(0, len(words))), word)
    said = parse_position(" ".join(words))
    assert said.zone in (None, "top left")


DOUBTS = ("just", "slightly", "possibly", "probably", "hardly", "almost", "nearly", "apparently",
          "maybe", "not", "never", "anything but", "nowhere", "off", "partially")  # fmt: skip


@settings(max_examples=200)
@given(st.sampled_from(SUBJECTS), st.sampled_from(VERBS), st.sampled_from(DOUBTS), statements())
def test_what_is_doubted_is_unclear(
    subject: str, verb: str, doubt: str, statement: tuple[str, Position]
) -> None:
    words, _ = statement
    place = words.split(" but ")[-1] if " but " in words else words.split(", ")[-1]
    for text in (f"{subject} {verb} {doubt} {place}", f"{doubt} {place}"):
        assert parse_position(text).zone is None, text


@settings(max_examples=300)
@given(st.lists(st.sampled_from(OTHER_WORDS), max_size=12))
def test_words_in_any_order_say_no_more_than_the_zones_among_them(words: list[str]) -> None:
    said = parse_position(" ".join(words)).zone
    synonyms = {"upper": "top", "lower": "bottom", "middle": "center", "central": "center"}
    named = {synonyms.get(word, word) for word in words}
    assert said is None or set(said.split()) <= named


TOP_LEFT = {
    "de": ["Der Tumor liegt oben links im Bild.",
           "Der Tumor befindet sich in der linken oberen Ecke des Bildes.",
           "Er liegt nicht in der Mitte, sondern links oben.",
           "Im Bild ist oben links ein Tumor zu sehen."],
    "fr": ["La tumeur est située en haut à gauche de l\u2019image.",
           "La lésion se trouve dans le coin supérieur gauche de l'image.",
           "Elle n'est pas au centre, mais en haut à gauche."],
    "es": ["El tumor se encuentra en la esquina superior izquierda de la imagen.",
           "No está en el centro, sino arriba a la izquierda."],
    "zh": ["\u80bf\u7624\u4f4d\u4e8e\u56fe\u50cf\u7684\u5de6\u4e0a\u89d2\u3002",
           "\u80bf\u7624\u4e0d\u5728\u4e2d\u592e\uff0c\u800c\u662f\u5728\u5de6\u4e0a\u89d2\u3002"],
}  # fmt: skip
UNCLEAR = {
    "de": ["Der Tumor liegt eher oben links.", "In der linken Lunge oben.",
           "Kein Tumor ist oben links zu sehen."],
    "fr": ["Elle est légèrement à gauche du centre.", "Le poumon gauche."],
    "es": ["No hay lesión arriba a la izquierda.", "El pulmón izquierdo."],
    "zh": ["\u5de6\u4e0a\u89d2\u6ca1\u6709\u80bf\u7624\u3002",
           "\u4f4d\u4e8e\u5de6\u80ba\u4e0a\u90e8"],
}  # fmt: skip
NEAR_IT = {
    "de": "Unten rechts, nahe der Mitte.",
    "fr": "En bas à droite, près du centre.",
    "es": "Abajo a la derecha, cerca del centro.",
    "zh": "\u53f3\u4e0b\u65b9\uff0c\u9760\u8fd1\u4e2d\u5fc3\u3002",
}


@pytest.mark.parametrize("language", sorted(TOP_LEFT))
def test_languages_that_come_along(language: str) -> None:
    tables = position_words(language)
    for text in TOP_LEFT[language]:
        assert parse_position(text, tables) == ParsedPosition("top left", False), text
        assert parse_position(text).zone is None, text
    for text in UNCLEAR[language]:
        assert parse_position(text, tables).zone is None, text
    assert parse_position(NEAR_IT[language], tables) == ParsedPosition("bottom right", True)
    # English is read all the same.
    assert parse_position("In the top left, near the center.", tables).near_center is True


def test_a_long_text_takes_no_time() -> None:
    started = time.process_time()
    for word in ("in ", "top ", "tumor ", "the ", "not ", "left , ", "and "):
        parse_position(word * 3000)
        parse_positions(word * 3000)
    assert time.process_time() - started < 20
