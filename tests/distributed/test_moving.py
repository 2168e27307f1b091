"""Every command that docs/moving.md gives, run as it stands there; those that need S3 are run by
``tests/services/s3/test_moving_to_s3.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.moving import commands, make_workplace, run_command

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def workplace(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the commands exist."""
    root = tmp_path_factory.mktemp("moving")
    make_workplace(root, small)
    return root


@pytest.mark.parametrize("command", commands(on_s3=False))
def test_command(command: str, small, workplace: Path) -> None:
    run_command(command, small, workplace)


def test_there_are_commands_of_every_kind() -> None:
    found = "\n".join(commands(on_s3=False))
    for program in ("deepspeed", "torchrun", "launch/infer.py", "launch/eval.py", "export.py"):
        assert program in found
