"""Claims a place for a run when it is told so by a line, and ends when it is told so again.

claimer PLACE RUN: prints ``won`` once its lease is there, or ``lost``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from prs_med.checkpoint.errors import SupersededError
from prs_med.checkpoint.ownership import claim
from prs_med.storage.directory import DirectoryStore

if __name__ == "__main__":
    store = DirectoryStore(Path(sys.argv[1]))
    sys.stdin.readline()
    try:
        claim(store, sys.argv[2], 0, lambda text: None, patience=1.0)
        while store.size("lease.json") is None:
            time.sleep(0.01)
        print("won", flush=True)
    except SupersededError:
        print("lost", flush=True)
    sys.stdin.readline()
