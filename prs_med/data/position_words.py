"""Tables of words by which answers about places are read, one for each language.

A table is a YAML file: each key is what some words mean, and has a list of words or phrases. Those
of English, German, French, Spanish and Chinese lie in ``prs_med/data/words/``; ``de.yaml`` is a
short example to start from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prs_med.data.position import ZONES
from prs_med.data.records import DataError

MEANINGS = {
    "top": "T",
    "bottom": "B",
    "left": "L",
    "right": "R",
    "center": "C",
    "near": "n",
    "far": "a",
    "part": "p",
    "image": "i",
    "article": "d",
    "in": "f",
    "towards": ">",
    "and": "k",
    "or": "r",
    "but": "b",
    "not": "x",
    "instead_of": "j",
    "free": "c",
    "is": "v",
    "shows": "t",
    "pronoun": "q",
    "finding": "F",
    "organ": "g",
    "label": "l",
    "very": "m",
    "counted": "o",
    "other": "s",
    "with": "w",
    "unit": "e",
    "agreement": "y",
    "unsure": "h",
    "wrong": "z",
}
"""Keys of a table and the letters by which the grammar of
:mod:`prs_med.data.answer_grammar` knows them."""

OTHER_WORD = "u"
"""The letter of a word that is not in the table."""

_DIRECTIONS = ("top", "bottom", "left", "right", "center")
_NEARNESS = {"near the center": "+", "away from the center": "-"}
_ENDINGS = {"unsure_endings": "endings of words that make a statement unsure"}
_EXCEPTIONS = "sure"
_PACKAGED = Path(__file__).parent / "words"


@dataclass(frozen=True, eq=False)
class PositionWords:
    """The words of one language."""

    name: str
    """What messages call it."""
    phrases: Mapping[str, Sequence[tuple[tuple[str, ...], str]]]
    """By its first word: words of a phrase and the letters that they stand for; longest first."""
    unsure_endings: tuple[str, ...]
    """A word that is in no list is unsure if it ends like this."""

    def letters(self, words: Sequence[str]) -> list[tuple[str, int]]:
        """What words mean: letters, each with how many of the words it stands for, which is 0 for
        the second letter of one phrase."""
        found: list[tuple[str, int]] = []
        at = 0
        while at < len(words):
            letters, count = self._phrase_at(words, at)
            found.append((letters[0], count))
            found += [(letter, 0) for letter in letters[1:]]
            at += count
        return found

    def _phrase_at(self, words: Sequence[str], at: int) -> tuple[str, int]:
        for phrase, letters in self.phrases.get(words[at], ()):
            if tuple(words[at : at + len(phrase)]) == phrase:
                return letters, len(phrase)
        is_unsure = bool(self.unsure_endings) and words[at].endswith(self.unsure_endings)
        return MEANINGS["unsure"] if is_unsure else OTHER_WORD, 1


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without its signs; a Chinese character is a word."""
    return re.findall(WORD, normal_form(text))


_IDEOGRAPH = r"[\u2e80-\u2fdf\u3005-\u3007\u3040-\u9fff\uf900-\ufaff]"
WORD = rf"{_IDEOGRAPH}|\d+(?:[.,]\d+)*|(?:(?!{_IDEOGRAPH})[^\W_])+|&"
"""One word of a text in its normal form."""


def normal_form(text: str) -> str:
    """A text in one spelling: small letters, one kind of dash and apostrophe, nothing invisible."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(
        "-" if unicodedata.category(char) == "Pd" or char in "\u2212\u2043\u02d7" else char
        for char in text
        if unicodedata.category(char) != "Cf"
    )
    return re.sub("[\u2018\u2019\u201b\u02bc\u00b4`]", "'", text).lower()


@cache
def packaged_words(name: str) -> PositionWords:
    """The table of a language that comes along, such as ``en`` or ``de``."""
    return read_position_words(_PACKAGED / f"{name}.yaml")


def packaged_languages() -> list[str]:
    """The names of the tables that come along."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def position_words(named: str | None) -> tuple[PositionWords, ...]:
    """The tables by which answers are read: English, and those that a setting names.

    Args:
        named: names of packaged tables and YAML files, separated by commas.

    Raises:
        DataError: one of them is neither, or not a table.
    """
    tables = [packaged_words("en")]
    for name in (part.strip() for part in (named or "").split(",")):
        if name in packaged_languages():
            tables.append(packaged_words(name))
        elif name:
            path = Path(name)
            # 'de.yaml' means the table that comes along where there is no file of that name.
            if not path.exists() and path.name == name and path.stem in packaged_languages():
                tables.append(packaged_words(path.stem))
            else:
                tables.append(read_position_words(path))
    return tuple(dict.fromkeys(tables))


def read_position_words(path: Path) -> PositionWords:
    """Read a table from a YAML file.

    Raises:
        DataError: the file cannot be read, or is not a table; the message names key and word.
    """
    try:
        # Every word stays text: YAML would take 'no' and 'on' for truth values.
        loaded = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"--position_words {path}: not a table of words ({reason}); give a YAML file or one of "
            f"{', '.join(packaged_languages())}"
        ) from None
    if not isinstance(loaded, dict):
        raise DataError(f"--position_words {path}: not a table: it needs keys such as top and left")
    return _table(path, loaded)


def _table(path: Path, loaded: dict[Any, Any]) -> PositionWords:
    letters = {**MEANINGS, **{zone: _letters_of(zone) for zone in ZONES if " " in zone}}
    letters |= {**_NEARNESS, _EXCEPTIONS: OTHER_WORD}
    phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    keys: dict[tuple[str, ...], str] = {}
    for key, entries in loaded.items():
        _check_entries(path, key, entries, [*letters, *_ENDINGS])
        for entry in () if key in _ENDINGS else entries:
            words = tuple(words_of(entry))
            if not words:
                raise DataError(f"--position_words {path}: {key}: {entry!r} has no word")
            if keys.setdefault(words, key) != key:
                raise DataError(
                    f"--position_words {path}: {entry!r} is in {keys[words]} and in {key}; it can "
                    "mean one of them"
                )
            phrases.setdefault(words[0], []).append((words, letters[key]))
    missing = [key for key in _DIRECTIONS if not loaded.get(key)]
    if missing:
        raise DataError(f"--position_words {path}: no words for {', '.join(missing)}")
    for found in phrases.values():
        found.sort(key=lambda phrase: len(phrase[0]), reverse=True)
    return PositionWords(path.stem, phrases, tuple(loaded.get("unsure_endings") or ()))


def _check_entries(path: Path, key: Any, entries: Any, allowed: Sequence[str]) -> None:
    if key not in allowed:
        raise DataError(
            f"--position_words {path}: unknown key {key!r}; allowed are {', '.join(allowed)}"
        )
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DataError(
            f"--position_words {path}: {key} is {entries!r}; it must be a list of words"
        )


def _letters_of(zone: str) -> str:
    return "".join(MEANINGS[word] for word in zone.split())
