"""Imports modules of the package again, and prints which of some libraries that took, too.

imports MODULE... -- LIBRARY...
"""

from __future__ import annotations

import importlib
import sys


def forget(*packages: str) -> None:
    """Have Python import them again when they are asked for."""
    for name in [*sys.modules]:
        if name.split(".")[0] in packages:
            del sys.modules[name]


if __name__ == "__main__":
    separator = sys.argv.index("--")
    modules, libraries = sys.argv[1:separator], sys.argv[separator + 1 :]
    forget("prs_med", *libraries)
    for module in modules:
        importlib.import_module(module)
    print(*(library for library in libraries if library in sys.modules))
