"""The sentences about places that are understood: a closed list, the same for every language.

The words of a text become letters (:data:`prs_med.data.position_words.MEANINGS`), words of place
that belong together become units, and each sentence with a place in it must be one of the forms
below, from its first word to its last. A sentence without a place says nothing of it, unless it
takes back or doubts what is said. Whatever else it is, the text is not understood.

``The tumor is not in the center, it is in the upper-left corner of the picture.`` reads::

    d   F     v  x   f   d   C     , q  v  f   d   T     L    p      f  d   i       .
    d   F     v  x   Z             , q  v  Z                                        .

and is a statement that denies the center, and one that says top left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from prs_med.data.position_words import WORD, PositionWords, normal_form

_DIRECTIONS = {"T": "top", "B": "bottom", "L": "left", "R": "right", "C": "center"}


@dataclass(frozen=True)
class Token:
    """A word, a sign, or several of them that have become one unit."""

    letter: str
    """What it means; ``Z`` and ``Y`` are units that name a place, ``Z`` with a preposition that
    says it is there, and ``N`` one that says whether the center is near."""
    start: int
    end: int
    """Where it stands in the text as :func:`plain` gives it."""
    zone: str | None = None
    """Of a place: the zone; None for one that the data set does not know ("the left side")."""
    near: bool = False
    """Of a unit about nearness: what it says."""
    of_image: bool = False
    """Of a place: whether it is said to be one of the image."""


@dataclass(frozen=True)
class Statement:
    """One thing that a text says about a place."""

    about: Literal["place", "other place", "nearness", "organ"]
    """A place where it is, or is not; nearness to the center; or an organ that it is in."""
    token: Token


@dataclass(frozen=True)
class Understood:
    """What was read in a text."""

    statements: tuple[Statement, ...]
    """In order."""
    whole: bool
    """Whether every sentence with a place in it has a known form, and none is taken back."""


_CONTRACTIONS = (
    (re.compile(r"\b(?:cannot|can't)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(it|that|there|he|she|which)'s\b"), r"\1 is"),
    (re.compile(r"'s\b"), " "),
)
_TOKEN = re.compile(rf"(?P<word>{WORD})|(?P<sign>\S|\n)")
_SIGNS = {
    **dict.fromkeys(".;!\n", "."),
    **dict.fromkeys(",[]{}|", ","),
    **dict.fromkeys("*_#\"'\u201c\u201d\u201e\u00ab\u00bb\u00bf\u00a1\u300c\u300d", ""),
    **{sign: sign for sign in "?/:()"},
    "\u3002": ".",
    "\u3001": ",",
}


def plain(text: str) -> str:
    """A text in small letters and one spelling, with its contractions spelt out."""
    text = normal_form(text)
    for pattern, instead in _CONTRACTIONS:
        text = pattern.sub(instead, text)
    return text


def tokens_of(text: str, words: PositionWords) -> list[Token]:
    """The tokens of a text as :func:`plain` gives it, with units of place and of nearness."""
    tokens = _single_tokens(text, words)
    for pattern, unite in _UNITS:
        tokens = _united(tokens, pattern, unite)
    return tokens


def understand(tokens: Sequence[Token]) -> Understood:
    """Read the statements in the tokens of a text, or of a part of it."""
    statements: list[Statement] = []
    whole = True
    for sentence in _sentences(tokens):
        read = _read_sentence(sentence)
        whole = whole and read is not None
        statements += read or ()
    return Understood(tuple(statements), whole)


def _single_tokens(text: str, words: PositionWords) -> list[Token]:
    found = list(_TOKEN.finditer(text))
    tokens: list[Token] = []
    at = 0
    while at < len(found):
        if found[at]["sign"]:
            letter = _sign(text, found[at])
            if letter:
                tokens.append(Token(letter, *found[at].span()))
            at += 1
            continue
        end = next((n for n in range(at, len(found)) if not _continues(text, found, at, n)), None)
        run = [match for match in found[at:end] if match["word"]]
        place = 0
        for letter, count in words.letters([match["word"] for match in run]):
            last = run[max(place + count - 1, 0)]
            start = run[place].start() if count else last.end()
            tokens.append(Token(letter, start, last.end()))
            place += count
        at = len(found) if end is None else end
    return tokens


def _continues(text: str, found: Sequence[re.Match[str]], first: int, number: int) -> bool:
    """Whether a token belongs to the same run of words: it is one, or joins two."""
    return bool(found[number]["word"]) or (
        number > first and found[number]["sign"] in "-'" and not _sign(text, found[number])
    )


def _sign(text: str, match: re.Match[str]) -> str:
    """The letter of a sign; none for one that says nothing."""
    sign = match["sign"]
    if sign == "-":
        around = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        return "" if all(char and not char.isspace() for char in around) else ","
    return _SIGNS.get(sign, "u")


_Unite = Callable[[re.Match[str], Sequence[Token]], Token]

# Counts are bounded, so that a long text of nothing but prepositions takes no time.
_PART = r"m{0,2}[pl]{0,2}"
_OF_IMAGE = r"(?:[f>]{1,2}[dm]{0,2}[ui]{0,2}|d)i"
_BEFORE = (
    r"(?:[f>]{1,3}d{0,2}m{0,2}(?:i[fd]{0,3})?[pl]{1,2}d?"
    r"|[f>]{0,3}d{0,2}m{0,2}(?:i[fd]{0,3}m?)?)"
)
_JOINED = r"[/,]?k?"


def _side(directions: str) -> str:
    return rf"{_BEFORE}[{directions}]{{1,2}}{_PART}(?:{_OF_IMAGE})?"


def _organ(match: re.Match[str], tokens: Sequence[Token]) -> Token:
    """Words of place that belong to the name of a structure: they name no place."""
    head = next(token.letter for token in tokens if token.letter in "uFg")
    return Token(head, tokens[0].start, tokens[-1].end)


def _nearness(match: re.Match[str], tokens: Sequence[Token]) -> Token:
    near = any(token.letter in "n+" for token in tokens)
    denied = any(token.letter == "x" for token in tokens)
    return Token("N", tokens[0].start, tokens[-1].end, near=near != denied)


def _place(match: re.Match[str], tokens: Sequence[Token]) -> Token:
    said = {_DIRECTIONS[token.letter] for token in tokens if token.letter in _DIRECTIONS}
    vertical, horizontal = said & {"top", "bottom"}, said & {"left", "right"}
    zone = None
    if said == {"center"}:
        zone = "center"
    elif len(vertical) == len(horizontal) == 1 and "center" not in said:
        zone = f"{vertical.pop()} {horizontal.pop()}"
    return Token(
        "Z" if tokens[0].letter == "f" else "Y",
        tokens[0].start,
        tokens[-1].end,
        zone=zone,
        of_image=any(token.letter == "i" for token in tokens),
    )


_UNITS: tuple[tuple[re.Pattern[str], _Unite], ...] = (
    # "the kidney stone (small)", "no visible lesion"
    (re.compile(r"[uFg]\([uFgipdmoe]{1,6}\)|(?<=[dtx])v[uFg]"), _organ),
    (re.compile(r"[()]"), lambda match, tokens: Token(",", tokens[0].start, tokens[0].end)),
    # "the upper third" counts nothing.
    (re.compile(r"[TBLRC]o"), lambda match, tokens: Token("u", tokens[0].start, tokens[-1].end)),
    # "the left lung", "right upper lobe", "a top-left lesion"
    (re.compile(r"[TBLRC](?:[mp/]{0,3}k?[TBLRC])*[mp/]{0,3}[uFg]"), _organ),
    # "le poumon gauche est"
    (re.compile(r"[uFg][TBLRC]{1,2}(?=[vtx])"), _organ),
    (
        re.compile(
            rf"(?:x[mv]{{0,3}})?m{{0,2}}(?:[na][fd>m]{{0,4}}(?:i[fd]{{0,2}})?C[pl]{{0,2}}"
            rf"|[f>]{{0,2}}d?(?:i[fd]{{0,2}})?[+-])(?:{_OF_IMAGE})?"
        ),
        _nearness,
    ),
    (
        re.compile(
            rf"{_BEFORE}(?:[TBLR]{{1,2}}p?/?C|Cp?/?[TBLR]{{1,2}}){_PART}(?:{_OF_IMAGE})?"
            rf"|{_side('TB')}{_JOINED}{_side('LR')}|{_side('LR')}{_JOINED}{_side('TB')}"
            rf"|{_side('TBLR')}|{_side('C').replace('>', '')}"
        ),
        _place,
    ),
)


def _united(tokens: Sequence[Token], pattern: re.Pattern[str], unite: _Unite) -> list[Token]:
    found: list[Token] = []
    at = 0
    for match in pattern.finditer(_letters(tokens)):
        found += tokens[at : match.start()]
        found.append(unite(match, tokens[match.start() : match.end()]))
        at = match.end()
    return [*found, *tokens[at:]]


def _letters(tokens: Sequence[Token]) -> str:
    return "".join(token.letter for token in tokens)


def _sentences(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """The sentences that state something: a question does not."""
    sentences = []
    start = 0
    for at, token in enumerate(tokens):
        if token.letter in ".?":
            if token.letter == ".":
                sentences.append(tokens[start:at])
            start = at + 1
    return [*sentences, tokens[start:]]


_ATOM = "[uFgiplmoe]"
_NAME = rf"(?:[dmso]*[uFgiple](?:/?{_ATOM}|[fwk]d*{_ATOM})*|d*o+[uFgipl]*)"
_SUBJECT = rf"(?:{_NAME}|q)"
_IS = r"v[vm]*"

_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        # "it is", "can be seen" or nothing, then the place; "the center is where"
        ("said", rf"(?:{_SUBJECT}{_IS})m*[ZY]v*"),
        ("said", rf"{_IS}[ZY]v*"),
        ("bare", r"m*[ZY]v*"),
        # "a small tumor in the top left", "one top left", "the image shows the tumor in ..."
        ("said", r"[dmso]*[uFgip]{0,3}FZ"),
        ("said", r"d*om*[ZY]"),
        ("said", rf"{_SUBJECT}?tm*{_NAME}Z"),
        ("said", r"(?:[dm]*l+)[:,][ZY]"),
        # "in the top left lies the tumor", "in the top left, a tumor can be seen"
        ("said", rf"[ZY],?(?:{_IS}|t){_SUBJECT}v*"),
        ("said", rf"[ZY],?{_NAME}{_IS}"),
        ("said", rf"{_IS}[ZY]{_NAME}v*"),
        ("said", r"[ZY]d*o[uF]*"),
        ("denied", rf"(?:{_SUBJECT}?[vm]*)x[vm]*[ZY](?:(?:,?[ZY])*,?rx?[ZY])?"),
        ("denied", rf"{_SUBJECT}?t?x[sm]*{_NAME}[vm]*[ZY](?:,?rx?[ZY])*"),
        ("denied", rf"[ZY],?(?:{_IS}|t)x{_NAME}?v*"),
        ("denied", rf"[ZY]{_IS}c"),
        ("outside", rf"(?:{_SUBJECT}?v*)j[ZY]"),
        ("near", rf"(?:{_SUBJECT}?[vm]*)N"),
        ("organ", rf"(?:{_SUBJECT}?{_IS})?fd*[mu]*g"),
        ("beside", r"(?:[wna][^ZYNxhzj]*|[ou]*e[^ZYNxzj]*)"),
    )
)
_OPENING = re.compile(r"(?:(?:y|[dm]*l+|q?t)[,:]+|[f>]+d*m*[ui]{0,2}i[,:]*(?=.)|fd*[mu]*g,)")
_BETWEEN = re.compile(r"[,/kb]*")
# In a sentence without a place: what doubts or denies, but for "no other lesion".
_TAKES_BACK = re.compile(r"^(?!.*s).*x|z")
_PLACES = re.compile("[ZYNTBLRCna+-]")


def _read_sentence(tokens: Sequence[Token]) -> list[Statement] | None:
    """What a sentence says; None if it is not understood."""
    letters = _letters(tokens)
    if not _PLACES.search(letters):
        return None if _TAKES_BACK.search(letters) else []
    if "z" in letters:
        return None
    statements: list[Statement] = []
    at = len(letters) - len(letters.lstrip(",kb"))
    while opening := _OPENING.match(letters, at):
        if letters[opening.end() - 2 : opening.end()].startswith("g"):
            statements.append(Statement("organ", tokens[opening.end() - 2]))
        at = opening.end()
    end = len(letters.rstrip(",kb:"))
    denied_before = False
    while at < end:
        form = _longest_form(letters, at, end)
        if form is None:
            return None
        kind, after = form
        if kind == "bare" and denied_before:
            return None
        statements += _statements(kind, tokens[at:after])
        between = _BETWEEN.match(letters, after)
        assert between is not None
        at = between.end()
        # After "not in A, B" nobody can tell whether B is denied; "but", or a list that ended
        # ("A or B"), says that it is not.
        is_open = kind == "denied" and "r" not in letters[:after]
        denied_before = is_open and "b" not in between[0]
    return statements


def _longest_form(letters: str, at: int, end: int) -> tuple[str, int] | None:
    """The form that takes most of the sentence from ``at``, and where it ends."""
    found: tuple[str, int] | None = None
    for kind, pattern in _FORMS:
        match = pattern.match(letters, at, end)
        is_whole = match and (match.end() == end or letters[match.end()] in ",/kbNjw")
        if match and is_whole and match.end() > max(at, found[1] if found else 0):
            found = (kind, match.end())
    return found


def _statements(kind: str, tokens: Sequence[Token]) -> list[Statement]:
    if kind == "organ":
        return [Statement("organ", tokens[-1])]
    found = []
    for token in tokens:
        if token.letter in "ZY":
            is_denied = kind in ("denied", "outside")
            found.append(Statement("other place" if is_denied else "place", token))
        elif token.letter == "N":
            found.append(Statement("nearness", token))
    return found
