"""The project installs from its pins with pip (as ``make setup`` did here) and with uv alike."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.patience import patience

ROOT = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).parent / "uv"
INSTALL = ["-c", "constraints.txt", "-e", ".[dev]"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_uv_would_install_what_pip_installed() -> None:
    done = subprocess.run(
        [UV, "pip", "install", "--dry-run", "--python", sys.executable, *INSTALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(300),
        check=False,
    )
    if "Failed to fetch" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    assert "Resolved" in done.stderr
    others = [
        line
        for line in done.stderr.splitlines()
        if re.match(r" [+-] ", line) and normal(line.split()[1].split("==")[0]) != "prs-med"
    ]
    assert others == []


def test_everything_that_the_project_needs_is_pinned_at_the_version_installed() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    needed = closure("prs-med", {"dev"})
    assert len(needed) > 50
    assert {normal(name): version for name, version in pins.items()} == needed


def closure(name: str, extras: set[str]) -> dict[str, str]:
    """The packages that an installed one needs, directly or not, with their versions (without
    local parts such as +cpu)."""
    found: dict[str, str] = {}
    waiting = [(name, frozenset(extras))]
    seen = set()
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        for text in metadata.requires(package) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            environments = [{"extra": extra} for extra in (*wanted, "")]
            if marker is None or any(marker.evaluate(e) for e in environments):
                found[normal(requirement.name)] = metadata.version(requirement.name).split("+")[0]
                waiting.append((requirement.name, frozenset(requirement.extras)))
    # These come with Python's virtual environments.
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}
