"""One-to-one translation between the names of a published file and those of a module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Renaming:
    """Pairs of name parts (published, ours). ``#`` stands for a number that both sides share."""

    pairs: tuple[tuple[str, str], ...]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published names to the module's; names that no pair matches stay."""
        return {_rename(name, self.pairs): value for name, value in state.items()}

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way."""
        back = tuple((ours, published) for published, ours in self.pairs)
        return {_rename(name, back): value for name, value in state.items()}


def _rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        match = re.match(re.escape(old).replace(r"\#", r"(\d+)"), name)
        if match:
            for number in match.groups():
                new = new.replace("#", number, 1)
            return new + name[match.end() :]
    return name
