"""The commands that README, CONTRIBUTING and docs/ give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command, with its continued lines joined and its comment removed."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line} {self.text}"


def documents() -> list[Path]:
    """In the order in which a new user reads them."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(document: Path) -> Iterator[Command]:
    """All commands of a document's ``sh`` blocks, in order."""
    text = document.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        if block[1] != "sh":
            continue
        line = text[: block.start(2)].count("\n") + 1
        for start, command in _commands(block[2].splitlines()):
            yield Command(document.name, line + start, command)


def _commands(lines: list[str]) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(lines):
        start, command = at, _without_comment(lines[at])
        while command.endswith("\\"):
            at += 1
            command = command[:-1].rstrip() + " " + _without_comment(lines[at]).lstrip()
        if here := re.search(r"<<'(\w+)'", command):
            while lines[at] != here[1]:
                at += 1
        at += 1
        if command.strip():
            yield start, command.strip()


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*$", "", line).rstrip()


def quoted_outputs(document: Path) -> Iterator[tuple[Command, list[str]]]:
    """Blocks of text directly behind a block with one command: the command, and what it prints.

    Lines of ``...`` stand for others that were left out.
    """
    text = document.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    for block, following in pairwise(blocks):
        between = text[block.end() : following.start()].strip()
        if block[1] == "sh" and following[1] == "text" and not between:
            found = list(_commands(block[2].splitlines()))
            assert len(found) == 1, f"{document.name}: one command in front of its output, please"
            line = text[: block.start(2)].count("\n") + 1 + found[0][0]
            yield Command(document.name, line, found[0][1]), following[2].splitlines()


def yaml_block(document: Path, title: str) -> str:
    """The YAML block whose first line is ``# title``."""
    text = document.read_text(encoding="utf-8")
    found = [b[2] for b in BLOCK.finditer(text) if b[1] == "yaml" and b[2].startswith(f"# {title}")]
    assert len(found) == 1, f"{document.name}: {len(found)} blocks of {title}"
    return found[0]
