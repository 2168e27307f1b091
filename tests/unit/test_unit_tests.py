"""Unit tests start no process by themselves: what does stands in tests/processes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
MODULES = {"multiprocessing", "subprocess", "tests.fork_server", "tests.programs"}
FUNCTIONS = ("exec", "fork", "popen", "posix_spawn", "spawn", "system")
"""How those of ``os`` begin."""


def starts(source: str) -> Iterator[str]:
    """What a file uses that starts processes."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names = [ast.unparse(node.func)]
        for name in names:
            module, _, function = name.rpartition(".")
            of_os = module == "os" and function.startswith(FUNCTIONS)
            if of_os or any(f"{name}.".startswith(f"{known}.") for known in MODULES):
                yield name


def test_no_process_is_started() -> None:
    found = {file.name: [*starts(file.read_text(encoding="utf-8"))] for file in FOLDER.glob("*.py")}
    assert len(found) > 50
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from subprocess import run",
        "import multiprocessing.pool as pool",
        "from tests.programs import run",
        "from tests import programs",
        "import os\nos.posix_spawn('x', [], {})",
        "import os\nif os.fork() == 0: ...",
        "from os import execv",
    ],
)
def test_a_start_is_found(source: str) -> None:
    assert [*starts(source)]


def test_what_starts_nothing_is_let_by() -> None:
    source = "import os, tests.patience\nos.replace('a', 'b')\nnot_called = (os.system,)"
    assert [*starts(source)] == []
