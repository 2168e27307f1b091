"""Whether texts are in a language whose words for places are not known.

Told from the words that sentences are made of, so that a mistake of the model is never taken for
another language: it is asked about questions and reference answers alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from prs_med.data.answer_position import parse_position
from prs_med.data.position_words import (
    MEANINGS,
    OTHER_WORD,
    PositionWords,
    packaged_languages,
    packaged_words,
    words_of,
)

_NAMES = "Fg"
"""Of structures: languages share them ("tumor")."""
_FEW = 3
"""So many words without one that belongs to a language known are taken for another language."""
_LATIN = re.compile(r"^LATIN ")

# The commonest words of languages in Latin letters; none of them is English.
_COMMON = """
    der die das den dem des ein eine einer ist sind liegt und im nicht mit auf wo
    le la les des du une est dans et sur au aux pas avec où
    el los las del una es está en y con dónde se
    il lo gli della nel nella è di che dove
    os da do na uma é está onde não
    het een van op niet zich waar
    jest się nie gdzie znajduje
    och är på inte var det ligger hvor ikke
    bir ve bu nerede görüntünün
    nằm ở của trong
"""
_FOREIGN = frozenset(_COMMON.split())


def is_in_other_language(text: str, tables: Sequence[PositionWords]) -> bool:
    """Whether a text is in another language than those of the tables.

    Args:
        text: a question or a reference answer.
        tables: words of the languages that are read.
    """
    if parse_position(text, tables).zone:
        return False
    if any(parse_position(text, (packaged_words(name),)).zone for name in packaged_languages()):
        return True
    words = words_of(text)
    known = max((_known(words, table, _NAMES) for table in tables), default=0)
    if _is_mostly_foreign_script(text):
        return not known
    foreign = sum(word in _FOREIGN for word in words)
    named = max((_known(words, table, "") for table in tables), default=0)
    return foreign > known or (not named and len(words) > _FEW)


def _known(words: Sequence[str], table: PositionWords, but: str) -> int:
    """How many of the words a table has, but for those with some letters; one whose ending alone
    it knows is none of them."""
    unknown = f"{OTHER_WORD}{MEANINGS['unsure']}{but}"
    return sum(count for letter, count in table.letters(words) if letter not in unknown)


def _is_mostly_foreign_script(text: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    latin = sum(bool(_LATIN.match(unicodedata.name(char, ""))) for char in letters)
    return latin < len(letters) - latin
