"""Are the installed versions those that the package requires?"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from prs_med.config import ModelSettings
from prs_med.plan.findings import Finding, failed, passed, warned

SETUP = Path(__file__).resolve().parents[2] / "setup.py"
_SHOWN = ("torch", "deepspeed", "transformers", "bitsandbytes", "peft")
"""Those whose versions are shown one by one even if they are right."""


def check_software(settings: ModelSettings, setup: Path = SETUP) -> Iterator[Finding]:
    """Python and the packages that ``setup.py`` (or the installed package) asks for."""
    # An older Python than 3.11 does not come this far: it has no StrEnum.
    yield passed("Python", ".".join(map(str, sys.version_info[:3])))
    right = 0
    for requirement in requirements(setup):
        finding = _check(requirement)
        if finding.fix or requirement.name in _SHOWN:
            yield finding
        right += not finding.fix
    yield passed("packages", f"{right} are as required")
    yield _flash(settings)
    if settings.use_liger_kernel:
        yield _liger()


def requirements(setup: Path) -> list[Requirement]:
    """What the package needs: from ``setup.py`` if it is there, else from the installed package."""
    if setup.is_file():
        calls = (
            node
            for node in ast.walk(ast.parse(setup.read_text(encoding="utf-8")))
            if isinstance(node, ast.keyword) and node.arg == "install_requires"
        )
        return [Requirement(text) for call in calls for text in ast.literal_eval(call.value)]
    try:
        texts = metadata.requires("prs-med") or []
    except metadata.PackageNotFoundError:
        return []
    return [r for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate()]


def _check(requirement: Requirement) -> Finding:
    fix = f"pip install -c constraints.txt '{requirement}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return failed(requirement.name, "not installed", fix)
    if requirement.specifier.contains(version, prereleases=True):
        return passed(requirement.name, version)
    return failed(requirement.name, f"{version}, needed is {requirement.specifier}", fix)


def _liger() -> Finding:
    try:
        return passed("liger-kernel", metadata.version("liger-kernel"))
    except metadata.PackageNotFoundError:
        fix = "pip install 'prs-med[liger]', or drop --use_liger_kernel"
        return failed("liger-kernel", "not installed", fix)


def _flash(settings: ModelSettings) -> Finding:
    try:
        return passed("flash-attn", metadata.version("flash-attn"))
    except metadata.PackageNotFoundError:
        pass
    if settings.attention == "flash":
        return failed(
            "flash-attn", "not installed", "pip install 'prs-med[flash]', or --attention auto"
        )
    if settings.attention == "sdpa" or settings.share_image_prefix:
        return passed("flash-attn", "not installed, and not asked for")
    return warned(
        "flash-attn",
        "not installed, so PyTorch's attention is used",
        "nothing to do, or pip install 'prs-med[flash]'",
    )
