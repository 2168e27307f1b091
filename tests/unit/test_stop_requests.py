"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from prs_med.train.stop_requests import STOP_FILE, watch_for_stop

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def same_handlers_afterwards() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def test_signals_and_the_file_are_requests(tmp_path: Path) -> None:
    before = handlers()
    with watch_for_stop(tmp_path) as stop:
        assert stop.reason() == ""
        (tmp_path / STOP_FILE).touch()
        assert stop.reason() == str(tmp_path / STOP_FILE)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.reason() == "SIGUSR1"
        stop.answered(stopped=False)
        assert not (tmp_path / STOP_FILE).exists()
    assert handlers() == before


def test_nothing_ends_a_process_whose_run_was_stopped_and_has_saved(tmp_path: Path) -> None:
    with watch_for_stop(tmp_path) as stop:
        stop.answered(stopped=True)
    assert handlers() == [signal.SIG_IGN] * 2
