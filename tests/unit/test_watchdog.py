"""What is said about processes that hang."""

from __future__ import annotations

import threading
import time

import pytest

from prs_med.data.order import Rank
from prs_med.storage.retry import waiting_for_storage
from prs_med.train import watchdog
from prs_med.train.heartbeat import Heartbeat, Phase
from prs_med.train.watchdog import Report, Watchdog, diagnosis
from tests.patience import patience


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


class Shared:
    """What PyTorch keeps for its processes, of two in one."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, key: str, by: int) -> int:
        self.counts[key] = self.counts.get(key, 0) + by
        return self.counts[key]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a watchdog ends its process, which it does not here."""
    shared, event = Shared(), threading.Event()
    monkeypatch.setattr(watchdog, "_store", lambda: shared)
    monkeypatch.setattr(Watchdog, "_end", lambda self: event.set())
    monkeypatch.setattr(Watchdog, "_guard", lambda self: None)
    return event


@pytest.mark.parametrize("which", ["itself", "another"])
def test_a_process_that_waits_for_storage_does_not_hang_nor_do_the_others(
    ended: threading.Event, which: str
) -> None:
    with Watchdog(Heartbeat(), Rank(0, 2), 1.0) as own:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if which == "itself":
                with waiting_for_storage():
                    time.sleep(0.3)
            else:
                watchdog._store().add(watchdog._WAITS, 1)
                time.sleep(0.1)
        # Whoever was waited for catches up first.
        assert not ended.wait(0.5)
        assert own._thread.is_alive()
        assert ended.wait(patience(30))
