"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from prs_med.train.stop_requests import STOP_FILE, watch_for_stop

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
LAUNCHED_BY = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def same_handlers_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in LAUNCHED_BY:
        monkeypatch.delenv(name, raising=False)
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
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
    assert handlers() == [signal.SIG_IGN] * 3


def test_the_end_of_the_terminal_is_a_request_unless_it_is_ignored(tmp_path: Path) -> None:
    with watch_for_stop(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reason() == "SIGHUP"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with watch_for_stop(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.reason() == ""


@pytest.mark.parametrize("launcher", LAUNCHED_BY)
def test_a_parent_that_ends_is_a_request_if_it_is_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    """After "nohup ... &" and a logout the shell is gone, and the run goes on."""
    with watch_for_stop(tmp_path) as by_a_shell:
        monkeypatch.setenv(launcher, "2")
        with watch_for_stop(tmp_path) as by_a_launcher:
            assert by_a_launcher.reason() == ""
            monkeypatch.setattr(os, "getppid", lambda: 1)
            assert by_a_launcher.reason() == "the end of its launcher"
        assert by_a_shell.reason() == ""
