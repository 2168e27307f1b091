"""Decoding one image after the other takes its memory from the system once."""

from __future__ import annotations

from tests.programs import succeed


def test_freed_memory_is_used_again_without_page_faults() -> None:
    # Afresh: what a process was forked from has changed when memory goes back to the system.
    faults = [
        int(succeed("tests.processes.page_faults", how, afresh=True)) for how in ("keep", "leave")
    ]
    assert faults[0] < 2_000
    assert faults[1] > 10_000
