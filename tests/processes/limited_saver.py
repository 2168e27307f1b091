"""Saves while no file may grow beyond 50 kB, and again without that limit.

limited_saver FOLDER
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from prs_med.checkpoint.directory_place import DirectoryPlace
from tests.unit.checkpoint_saves import CUTS, STATE, save_all, savers
from tests.unit.checkpoint_states import snapshots

if __name__ == "__main__":
    both, parts = savers(DirectoryPlace(Path(sys.argv[1]))), snapshots(STATE, CUTS)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    assert "File too large" in save_all(both, 1, parts)[0].error
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not save_all(both, 2, parts)[0].error
