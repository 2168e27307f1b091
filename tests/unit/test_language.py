"""Which texts are taken for another language than English."""

from __future__ import annotations

import pytest

from prs_med.data.answer_position import ENGLISH
from prs_med.data.language import is_in_other_language
from prs_med.data.position import ZONES, Position
from prs_med.data.position_words import position_words
from prs_med.data.question_templates import (
    GENERAL_QUESTIONS,
    KIND_QUESTIONS,
    STRUCTURES,
    answers_about,
)


@pytest.mark.parametrize(
    "text",
    [
        "Oben links.",
        "Wo liegt der Tumor?",
        "Der Tumor liegt eher links.",
        "Où se trouve la tumeur ?",
        "¿Dónde está el tumor?",
        "Dov'è il tumore?",
        "Onde está o tumor?",
        "Gdzie jest guz?",
        "Tümör görüntünün üst k\u0131sm\u0131nda yer al\u0131yor.",
        "\u8179\u760d\u306f\u3069\u3053\u3067\u3059\u304b",
        "\u0413\u0434\u0435 \u043e\u043f\u0443\u0445\u043e\u043b\u044c?",
    ],
)
def test_other_languages_are_told(text: str) -> None:
    assert is_in_other_language(text, ENGLISH)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "Here.",
        "Polyp.",
        "I do not know.",
        "Melanoma in situ",
        "Benign sessile polyp histology",
        "COVID-19 infection lung opacity",
        "It is just left of the center.",
    ],
)
def test_english_that_says_nothing_of_a_place_is_english(text: str) -> None:
    assert not is_in_other_language(text, ENGLISH)


def test_all_that_annotate_writes_is_english() -> None:
    questions = (*GENERAL_QUESTIONS, *(q for kind in KIND_QUESTIONS.values() for q in kind))
    for name in STRUCTURES.values():
        texts = [question.format(target=f"the {name}") for question in questions]
        texts += [text for zone in ZONES for text in answers_about(name, Position(zone, True))]
        for text in texts:
            assert not is_in_other_language(text, ENGLISH), text


def test_a_language_whose_words_are_given_is_not_another() -> None:
    assert not is_in_other_language("Der Tumor liegt eher links.", position_words("de"))
    assert is_in_other_language("La tumeur est à gauche.", position_words("de"))
