"""Makes and frees the bytes of many images; prints how many page faults that took.

page_faults HOW: ``keep`` to keep freed memory for the next image, ``leave`` not to.
"""

from __future__ import annotations

import resource
import sys

from prs_med.data.stream.freed_memory import keep_freed_memory


def faults() -> int:
    """So far, of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        before = faults()
        keep_freed_memory()
        assert faults() - before < 100
    before = faults()
    for _ in range(50):
        images = [bytes([1]) * 100_000 for _ in range(20)]
        del images
    print(faults() - before)
