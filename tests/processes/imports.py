"""Imports modules of the package again, and prints the first of some libraries that this needs.

imports MODULE... -- LIBRARY...
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder


class NeededError(BaseException):
    """A library is about to be imported; nobody takes it for one that is not installed."""


class Watch(MetaPathFinder):
    """Is asked first for every module that is not there yet."""

    def __init__(self, libraries: list[str]) -> None:
        self._libraries = libraries

    def find_spec(self, name: str, *_: object) -> None:
        """Leave all modules but those of the libraries to others."""
        library = name.partition(".")[0]
        if library in self._libraries:
            raise NeededError(library)


def forget(packages: list[str]) -> None:
    """Have Python import them again when they are asked for."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in packages:
            del sys.modules[name]


if __name__ == "__main__":
    separator = sys.argv.index("--")
    modules, libraries = sys.argv[1:separator], sys.argv[separator + 1 :]
    forget(["prs_med", *libraries])
    sys.meta_path.insert(0, Watch(libraries))
    try:
        for module in modules:
            importlib.import_module(module)
    except NeededError as needed:
        print(needed)
