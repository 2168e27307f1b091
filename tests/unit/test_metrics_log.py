"""The log of metrics, the least important file of a run: what is damaged in it holds up nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from prs_med.train.metrics_log import whole_lines
from prs_med.train.resume import with_scores

LOG = b"".join(json.dumps({"step": step, "loss": 0.5}).encode() + b"\n" for step in range(1, 6))
LINES = LOG.split(b"\n")[:-1]


def test_the_last_line_may_be_half_written() -> None:
    assert whole_lines(LOG + b'{"step": 6, "lo') == LINES


def test_what_was_logged_later_is_left_out() -> None:
    assert whole_lines(LOG, 3) == LINES[:3]


@given(at=st.integers(0, len(LOG) - 1), to=st.integers(0, 255))
def test_a_damaged_byte_costs_two_lines_at_most(at: int, to: int) -> None:
    damaged = LOG[:at] + bytes([to]) + LOG[at + 1 :]
    assert len(set(LINES) & set(whole_lines(damaged))) >= len(LINES) - 2


@given(st.binary(max_size=200))
def test_anything_can_be_read(content: bytes) -> None:
    assert all(json.loads(line)["step"] <= 9 for line in whole_lines(content, 9))


def test_other_json_is_no_line_of_it() -> None:
    assert whole_lines(b'7\n[1]\n{"loss": 1}\n{"step": "x"}\nnull\n{"step": 1}\n') == [
        b'{"step": 1}'
    ]


def test_scores_that_came_after_the_log_was_saved_are_added_once() -> None:
    state = {"step": 5, "scores": {"val_dice": 0.25, "val_hd95": None}}
    line = b'{"step": 5, "val_dice": 0.25, "val_hd95": null}\n'
    assert with_scores(LOG, state) == LOG + line
    assert with_scores(LOG + line, state) == LOG + line
    assert with_scores(LOG, {"step": 5, "scores": {}}) == LOG
