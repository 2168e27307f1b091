"""Texts in CSV files that a spreadsheet must not take for formulas.

Spreadsheets calculate a cell that begins with a sign such as ``=``, and a formula can send what
lies beside it elsewhere. Names of files, questions and answers come from others. So such a text
gets an apostrophe in front, as OWASP advises for CSV files, and so does one that begins so behind
apostrophes: then what was written can be told from what was added.
"""

from __future__ import annotations

import re

# The wide forms count in some locales, and blanks in front are left out by some programs.
_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]|[ ']*[\t\r\n]")


def as_plain_text(text: str) -> str:
    """The text with an apostrophe in front if a spreadsheet might take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def original_text(cell: str) -> str:
    """The text that `as_plain_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
