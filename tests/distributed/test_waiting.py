"""Work of one process may take longer than a collective, in which others would wait for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.launcher import launch

pytestmark = pytest.mark.distributed


def test_processes_wait_for_each_other_beyond_the_limit_of_a_collective(tmp_path: Path) -> None:
    done = launch(["--module", "tests.distributed.slow_processes", str(tmp_path)], processes=2)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [
            "of 0",
            "error of 0",
            ["of 0", "of 1"],
            ["of 0", "of 1"],
            "error of 1",
        ]
