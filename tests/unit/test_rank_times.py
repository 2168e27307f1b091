"""Which process holds up the others."""

from __future__ import annotations

import pytest

from prs_med.train.rank_times import RankSeconds


def test_the_slowest_process_and_its_time() -> None:
    seconds = RankSeconds([0.1, 0.1, 0.9, 0.1], [2.0, 2.0, 2.0, 2.4])
    assert seconds.metrics() == pytest.approx(
        {
            "data_wait_s": 0.3,
            "data_wait_slowest_s": 0.9,
            "forward_s": 2.1,
            "forward_slowest_s": 2.4,
        }
    )
    assert seconds.complaint().startswith("rank 2 waits for data: 0.90 s a step")


def test_only_a_process_that_stands_out_is_named() -> None:
    assert RankSeconds([0.1, 0.2], [1.0, 1.4]).complaint() != ""
    assert RankSeconds([0.1], [3.0]).complaint() == ""
    assert RankSeconds([0.001, 0.003], [0.010, 0.013]).complaint() == ""
    # All wait alike: the storage is slow, not a process.
    assert RankSeconds([5.0, 5.1, 5.2], [1.0, 1.0, 1.0]).complaint() == ""
    slow = RankSeconds([0.0, 0.0], [1.0, 1.6]).complaint()
    assert slow == "rank 1 is slow to compute: 1.60 s a step, half of the processes 1.00 s or less"
