"""A library whose private names are used has an upper bound, so that no release breaks them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [*(ROOT / "prs_med").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
INTERNAL = ("deepspeed.runtime", "deepspeed.checkpoint", "deepspeed.monitor")
"""Modules that are private in all but name."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def used(file: Path) -> Iterator[str]:
    """Libraries whose private names a file imports, or takes from something that it imports."""
    imported: dict[str, str] = {}
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                imported[alias.asname or alias.name] = str(node.module)
                whole = f"{node.module}.{alias.name}"
                if any(map(private, whole.split("."))) or whole.startswith(INTERNAL):
                    yield whole
        elif isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            owner = node.value
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id in imported:
                yield f"{imported[owner.id]}.{node.attr}"


def libraries() -> set[str]:
    found = {name.split(".")[0] for file in FILES for name in used(file)}
    standard = {"os", "sys", "threading"}
    return found - standard - {"prs_med"}


def requirements() -> dict[str, str]:
    """What setup.py asks for, by library."""
    text = (ROOT / "setup.py").read_text()
    return dict(re.findall(r'^ +"([A-Za-z0-9_-]+)(?:\[\w+\])?([<>=][^"]*)",$', text, re.MULTILINE))


def test_the_libraries_are_found() -> None:
    assert {"deepspeed", "torch", "transformers"} <= libraries()


@pytest.mark.parametrize("library", sorted(libraries()))
def test_it_has_an_upper_bound(library: str) -> None:
    assert ",<" in requirements()[library]
