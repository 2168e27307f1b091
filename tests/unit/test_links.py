"""Links between the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """Without blocks of code, whose lines may look like headings or links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> list[str]:
    dead = []
    for target in LINK.findall(prose(document.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert dead_links(document) == []


def test_files_named_in_guides_exist() -> None:
    named = {
        (document.name, name)
        for document in DOCUMENTS
        for name in re.findall(
            r"`((?:tests|prs_med|launch|docker|ds_configs|benchmarks)/[\w./-]+)`",
            document.read_text(),
        )
    }
    assert len(named) > 50
    missing = {(where, name) for where, name in named if not (ROOT / name).exists()}
    assert missing == {("CONTRIBUTING.md", "prs_med/model/encoders/NAME.py")}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Some *Heading*, here\n\n[a](#some-heading-here)\n[b](b.md)\n")
    (tmp_path / "c.md").write_text("[a](a.md#some-heading-here) [a](a.md#other)\n")
    assert dead_links(tmp_path / "a.md") == ["b.md"]
    assert dead_links(tmp_path / "c.md") == ["a.md#other"]
