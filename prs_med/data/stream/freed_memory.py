"""Let the allocator keep the memory that decoding frees, for the next image."""

from __future__ import annotations

from functools import cache

_BLOCK_BYTES = 30 * 2**20
"""glibc looks at the size of freed blocks below 32 MiB."""


@cache
def keep_freed_memory() -> None:
    """Raise the bounds above which the C library hands freed memory back to the system.

    glibc starts with bounds below the size of an image, so images may be decoded into pages that
    the system has to provide anew each time: 40 page faults for an image of 256 x 256 pixels. It
    raises them for good, to the size of the block and twice of it, when it frees a larger block.
    This is such a block; it is never touched, so it takes no memory itself. Other C libraries do
    not mind.
    """
    bytes(_BLOCK_BYTES)
