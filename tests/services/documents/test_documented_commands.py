"""Every command that README, CONTRIBUTING and docs/ give is run, here or where ELSEWHERE says.

They run one after another in one folder, in the order of the documents, since some go on with what
others made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from tests.documents import Command, commands_of, documents, quoted_outputs
from tests.services.documents.documented_workplace import Workplace, make_documented_workplace
from tests.services.s3.ceph import CephGateway

pytestmark = pytest.mark.distributed

ELSEWHERE = {
    "moving.md": "tests/distributed/test_moving.py, tests/services/s3/test_moving_to_s3.py",
    "exporting.md": "tests/unit/test_export_program.py",
    "docker.md docker *": "make test-docker builds the image; test_compose.py runs its commands",
    "launching.md sbatch *": "tests/services/slurm/test_slurm_scripts.py",
    "launching.md SWEEP=*": "tests/services/slurm/test_slurm_scripts.py",
    "launching.md IMAGE=*": "tests/services/slurm/test_slurm_scripts.py",
    "launching.md cat >rates.txt*": "tests/services/slurm/test_slurm_scripts.py writes such a file",
    "* deepspeed --hostfile *": "tests/services/machines/test_hostfile.py",
    "launching.md torchrun *": "tests/services/machines/test_hostfile.py",
    "launching.md export TORCH_*": "tests/services/machines/test_hostfile.py",
    "performance.md python benchmarks/*": "measures for minutes what is measured once",
    "performance.md pip install *": "would change the environment that all tests run in; "
    "tests/kernels installs Liger apart from it",
    "* make demo": "tests/distributed/test_demo.py runs it; it takes minutes",
    "* make setup*": "every test runs in what it makes",
    "* source .venv/bin/activate": "every test runs in this environment",
    "* make test": "runs this",
    "* make test-fast": "a part of make test",
    "* make lint": "a part of make test",
    "* make test-crash": "tests/crash runs a sample of it",
    "* make test-settings": "tests/distributed/test_random_settings.py tries two of them",
    "* make test-docker": "as root, for minutes, on request",
    "* make mutants*": "tries some two thousand changes of the code, on request",
    "README.md pip install *": "make setup does the same with more extras",
    "CONTRIBUTING.md python -m pytest -m *": "all of these tests run in make test",
    "CONTRIBUTING.md pre-commit install": "changes the repository that it runs in",
}
"""Document and command (a pattern; a document alone means all of it), and who runs it instead."""

ALL = [command for document in documents() for command in commands_of(document)]


def is_elsewhere(command: Command) -> bool:
    shown = f"{command.document} {command.text}"
    return any(command.document == p or fnmatchcase(shown, p) for p in ELSEWHERE)


def once_each(commands: list[Command]) -> list[Command]:
    """Without those that were given before."""
    found: dict[str, Command] = {}
    for command in commands:
        found.setdefault(command.text, command)
    return list(found.values())


HERE = once_each([command for command in ALL if not is_elsewhere(command)])
QUOTED = [pair for document in documents() for pair in quoted_outputs(document)]


@pytest.fixture(scope="module")
def workplace(
    small, ceph: CephGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workplace]:
    client = ceph.client()
    client.create_bucket(Bucket="bucket")
    yield make_documented_workplace(
        tmp_path_factory.mktemp("documented"), small, ceph.environment()
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    client.delete_bucket(Bucket="bucket")


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What the commands printed."""
    return {}


@pytest.mark.parametrize("command", HERE, ids=str)
def test_it_runs(command: Command, workplace: Workplace, printed: dict[str, str]) -> None:
    printed[command.text] = workplace.run(command.text)


@pytest.mark.parametrize(("command", "lines"), QUOTED, ids=lambda value: str(value)[:60])
def test_it_prints_what_is_quoted(
    command: Command, lines: list[str], workplace: Workplace, printed: dict[str, str]
) -> None:
    """Every quoted line, in this order."""
    if command.text not in printed:
        printed[command.text] = workplace.run(command.text)
    output = iter(printed[command.text].splitlines())
    for line in lines:
        if line.strip() and line.strip() != "...":
            assert any(line.rstrip() == found.rstrip() for found in output), (
                f"{command.document}: not printed, or not here: {line}"
            )


def test_no_command_was_overlooked() -> None:
    assert len(ALL) > 80
    assert len(HERE) > 25
    assert len(QUOTED) >= 2
    searched = (re.search(r"launch/(\w+)", command.text) for command in HERE)
    programs = {found[1] for found in searched if found}
    assert programs >= {"data", "eval", "export", "infer", "plan", "train"}


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_runs_elsewhere_is_still_documented(pattern: str) -> None:
    shown = [f"{command.document} {command.text}" for command in ALL]
    assert any(text.startswith(f"{pattern} ") or fnmatchcase(text, pattern) for text in shown)
