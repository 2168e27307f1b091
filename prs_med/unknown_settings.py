"""What is said about a setting that a program does not have: which one was meant, in one line."""

from __future__ import annotations

from collections.abc import Collection

from prs_med.old_spellings import RENAMED
from prs_med.trainer_names import TRAINER


def unknown_setting(name: str, known: Collection[str], dashes: str) -> str:
    """The line about ``name``.

    Args:
        known: names of the settings that there are, without dashes.
        dashes: what stands before the name of a setting: ``--`` on a command line, nothing in YAML.
    """
    line = f"{dashes}{name}: no such setting"
    plain = name.lower().replace("-", "_")
    if plain in TRAINER:
        ours, note = TRAINER[plain]
        here = [each for each in ours if each in known]
        if here:
            note = f"; {note}" if note else ""
            return f"{line}; here it is {_either(here, dashes)}{note}"
        if ours:
            return f"{line}; launch/train.py has {_either(ours, '--')}"
        return f"{line}; {note}"
    meant = [RENAMED[plain]] if RENAMED.get(plain) in known else nearest(plain, known)
    return f"{line}; did you mean {_either(meant, dashes)}?" if meant else f"{line} (see --help)"


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The known names that fewest changes of single letters make of ``name``, if these are few."""
    changes = {each: _changes(name, each) for each in known}
    fewest = min(changes.values(), default=0)
    if fewest > max(1, len(name) // 3):
        return sorted(each for each in known if name in each.split("_"))[:3]
    return sorted(each for each, count in changes.items() if count == fewest)


def _either(names: Collection[str], dashes: str) -> str:
    return " or ".join(f"{dashes}{name}" for name in names)


def _changes(one: str, other: str) -> int:
    """How many letters to insert, drop, replace or swap with their neighbour (the distance of
    Damerau and Levenshtein, no part of a word changed twice)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != wanted)))
            if before and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
