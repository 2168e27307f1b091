"""The classes of masks that show several structures, each as a number: ``1:tumor,2:cyst``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ENTRY = re.compile(r"(\d{1,5}):(|\w[\w ()+-]*)")
HIGHEST = 65535
"""The highest number of a class: what 16 bits hold."""
ALLOWED = (
    "NUMBER:NAME for each class, separated by commas, such as 1:tumor,2:cyst (NUMBER from 1 to "
    f"{HIGHEST}, names of letters, digits, space and _-+() that differ; NUMBER: leaves one out)"
)
"""What ``--classes`` may be, in words."""


@dataclass(frozen=True)
class MaskClass:
    """One class of the masks of a data set."""

    value: int
    """The number of its pixels."""
    name: str
    """What it shows, such as ``tumor``."""
    known: frozenset[int]
    """The numbers of all classes, those that are left out included: a mask has no others but 0."""

    @property
    def file_name(self) -> str:
        """Its name as a part of the names of files."""
        return self.name.replace(" ", "_")


def parse_classes(text: str) -> tuple[MaskClass, ...]:
    """The classes that ``--classes`` names, in its order.

    Raises:
        ValueError: it is not as :data:`ALLOWED` says.
    """
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in text.split(",")]
    named = [(int(entry[1]), entry[2].strip()) for entry in entries if entry]
    values = frozenset(value for value, _ in named)
    classes = tuple(MaskClass(value, name, values) for value, name in named if name)
    names = {one.file_name.lower() for one in classes}
    if (
        None in entries
        or len(values) < len(named)
        or not classes
        or len(names) < len(classes)
        or not all(1 <= value <= HIGHEST for value in values)
    ):
        raise ValueError(text)
    return classes


def are_classes(text: str) -> bool:
    """Whether a text is what ``--classes`` may be."""
    try:
        parse_classes(text)
    except ValueError:
        return False
    return True


def class_named(classes: Iterable[MaskClass], text: str) -> MaskClass | None:
    """The only class whose name stands in a text as whole words, also as a plural; None if there
    is none or several. Of ``cyst`` and ``cyst wall``, the longer one counts where it stands."""
    found = set()
    for one in sorted(classes, key=lambda one: -len(one.name)):
        words = r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", one.name)))
        text, count = re.subn(rf"(?<!\w){words}(s|es)?(?!\w)", " ", text, flags=re.I)
        if count:
            found.add(one)
    return found.pop() if len(found) == 1 else None
