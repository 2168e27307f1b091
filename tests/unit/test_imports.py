"""Imports point one way: which part of the project may use which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "prs_med"
SETTINGS = {
    "answering_config",
    "checked_settings",
    "command_line",
    "config",
    "data_config",
    "mask_classes",
    "old_spellings",
    "plan_config",
    "settings_io",
    "trainer_names",
    "unknown_settings",
}
BOTTOM = {*SETTINGS, "batch", "paths", "quiet", "srun"}
"""Modules that know no part."""
MAY_USE = {
    "storage": set(),
    "checkpoint": {"storage"},
    "data": {"storage"},
    "model": {"storage"},
    "inputs": {"data", "model"},
    "export": {"checkpoint", "model", "storage"},
    "report": {"data", "evaluate"},
    "evaluate": {"data", "export", "inputs", "model", "report", "storage"},
    "train": {"checkpoint", "data", "evaluate", "export", "inputs", "model", "report", "storage"},
    "plan": {"data", "model", "storage", "train"},
    "programs": {
        *("checkpoint", "data", "evaluate", "export", "model", "plan", "report", "storage"),
        "train",
    },
}
"""What each part may import, beside itself and the modules at the bottom."""
ONLY = {
    ("report", "evaluate"): {"prs_med.evaluate.statistics"},
    ("report", "data"): {"prs_med.data.overlay", "prs_med.data.images"},
}
"""Where a part may use single modules of another alone."""
FOREIGN = {
    "model": {"deepspeed", "boto3", "botocore"},
    "data": {"deepspeed"},
    "checkpoint": {"deepspeed", "transformers", "peft"},
    "report": {"deepspeed", "torch", "transformers"},
}
"""Libraries that a part must not know."""


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            assert node.module
            if node.module == "prs_med":
                yield from (f"prs_med.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part_of(file: Path) -> str:
    relative = file.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


def wrong_imports(part: str, names: Iterator[str]) -> list[str]:
    found = []
    for name in names:
        head, *rest = name.split(".")
        if head in ("launch", "tests", "benchmarks") or head in FOREIGN.get(part, ()):
            found.append(name)
        if head != "prs_med" or not rest:
            continue
        other = rest[0]
        if other in (part, "__version__", *BOTTOM):
            continue
        allowed = other in MAY_USE.get(part, ())
        single = ONLY.get((part, other))
        if not allowed or (single is not None and name not in single):
            found.append(name)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    assert wrong_imports(part_of(file), imports(file)) == []


def test_every_part_is_in_the_table() -> None:
    assert {part_of(file) for file in FILES} == MAY_USE.keys() | BOTTOM


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("model", "prs_med.data.rows"),
        ("data", "prs_med.model.mllm"),
        ("checkpoint", "prs_med.train.loop"),
        ("model", "deepspeed"),
        ("storage", "prs_med.data"),
        ("config", "prs_med.model"),
        ("report", "prs_med.evaluate.generate"),
        ("train", "tests.unit.assembled"),
    ],
)
def test_a_wrong_import_is_found(part: str, name: str) -> None:
    assert wrong_imports(part, iter([name])) == [name]
