"""What is said about processes that hang."""

from __future__ import annotations

from prs_med.train.heartbeat import Phase
from prs_med.train.watchdog import Report, diagnosis


def report(step: int, phase: Phase, stack: str = "") -> Report:
    return Report(step, phase, 61.2, f"node{step}", 100 + step, stack)


def test_the_process_that_is_furthest_behind_hangs() -> None:
    text = diagnosis(
        {
            0: report(7, "in the backward pass"),
            1: report(7, "in the forward pass", "File x.py, line 3, in slow_layer"),
            2: report(7, "in the backward pass"),
        },
        3,
    )
    first, second, *stack = text.splitlines()
    assert first == "rank 1 (node7, process 107) is in the forward pass after step 7, for 61 s"
    assert second == "the other 2 wait for it further on"
    assert "slow_layer" in stack[-1]


def test_a_step_behind_counts_more_than_a_phase() -> None:
    text = diagnosis({0: report(8, "waiting for data"), 1: report(7, "saving")}, 2)
    assert text.startswith("rank 1 ")


def test_one_that_says_nothing_is_named() -> None:
    text = diagnosis({0: report(7, "in the backward pass"), 2: report(7, "saving")}, 4)
    assert text.startswith("rank 1, rank 3 gives no sign")
    assert "rank 0 (node7" in text


def test_all_at_one_point() -> None:
    text = diagnosis({rank: report(3, "in the optimizer step") for rank in range(9)}, 9)
    assert text.startswith("all processes stand at the same point: the network or storage")
    assert "rank 8" not in text
    alone = diagnosis({0: report(3, "waiting for data", "in load_image")}, 1)
    assert alone.startswith("rank 0 (node3")
    assert "in load_image" in alone
