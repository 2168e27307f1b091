"""Decoding one image after the other takes its memory from the system once."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from prs_med.data.stream.freed_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    before = faults()
    keep_freed_memory()
    assert faults() - before < 100
before = faults()
for _ in range(50):
    images = [bytes([1]) * 100_000 for _ in range(20)]
    del images
print(faults() - before)
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, how], capture_output=True, check=True
            ).stdout
        )
        for how in ("keep", "leave")
    ]
    assert faults[0] < 2_000
    assert faults[1] > 10_000
