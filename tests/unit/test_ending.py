"""Asked to end, a run keeps its budget, whatever stands in its way."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prs_med.storage import retry
from prs_med.storage.retry import TransientError, give_up_by, patiently
from prs_med.train import ending
from prs_med.train.ending import GO_ON_LATER, EndInTime
from prs_med.train.stop_requests import STOP_FILE, StopRequests
from tests.patience import patience


@pytest.fixture(autouse=True)
def as_patient_as_ever_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ending, "_POLL_SECONDS", 0.05)
    yield
    give_up_by(math.inf)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The status that the process would have ended with."""
    found: list[int] = []
    monkeypatch.setattr(os, "_exit", found.append)
    return found


def test_a_process_that_stands_still_ends_and_says_who_asked(
    tmp_path: Path, ended: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with EndInTime(StopRequests(tmp_path), 0.3, said.append) as end:
        assert not ended
        (tmp_path / STOP_FILE).touch()
        end._thread.join(patience(30))
    assert ended == [GO_ON_LATER]
    assert said == [str(tmp_path / STOP_FILE)]
    assert "still not done: ending here" in caplog.text


def test_a_request_that_another_process_got_counts_from_when_it_is_heard_of(
    tmp_path: Path, ended: list[int]
) -> None:
    stop = StopRequests(tmp_path)
    with EndInTime(stop, 0.1, lambda reason: None) as end:
        assert not end._over.wait(0.6)
        assert ended == []
        stop.hear()
        end._thread.join(patience(30))
    assert ended == [GO_ON_LATER]
    assert stop.reason() == ""


def test_last_words_that_nobody_hears_do_not_hold_it_up(tmp_path: Path, ended: list[int]) -> None:
    (tmp_path / STOP_FILE).touch()
    never = threading.Event()
    with EndInTime(StopRequests(tmp_path), 0.1, lambda reason: never.wait(patience(60))) as end:
        end._thread.join(patience(30))
    assert ended == [GO_ON_LATER]
    never.set()


def test_a_run_that_ends_in_time_is_left_alone(tmp_path: Path, ended: list[int]) -> None:
    (tmp_path / STOP_FILE).touch()
    with EndInTime(StopRequests(tmp_path), patience(60), ended.append) as end:
        pass
    assert not end._thread.is_alive()
    assert ended == []


def test_without_a_budget_nothing_watches(tmp_path: Path, ended: list[int]) -> None:
    (tmp_path / STOP_FILE).touch()
    with EndInTime(StopRequests(tmp_path), 0, ended.append) as end:
        assert not end._thread.is_alive()
    assert ended == []


def test_who_waits_for_storage_gives_up_at_half_of_the_budget(
    tmp_path: Path, ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the midst of a long pause."""
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: lambda state: 600.0)
    tried = threading.Event()

    def away() -> None:
        tried.set()
        raise TransientError("nobody listens")

    def ask() -> None:
        with pytest.raises(TransientError):
            patiently("file", away, 600.0)

    with EndInTime(StopRequests(tmp_path), 2.0, lambda reason: None):
        asking = threading.Thread(target=ask)
        asking.start()
        assert tried.wait(patience(30))
        begun = time.monotonic()
        (tmp_path / STOP_FILE).touch()
        asking.join(patience(60))
        assert 0.9 < time.monotonic() - begun < patience(30)
        assert not asking.is_alive()
    assert ended == []


def test_afterwards_requests_are_repeated_as_ever(tmp_path: Path, ended: list[int]) -> None:
    (tmp_path / STOP_FILE).touch()
    with EndInTime(StopRequests(tmp_path), 0.01, lambda reason: None) as end:
        end._thread.join(patience(30))
    answers = iter([TransientError("once"), None])

    def ask() -> str:
        if failure := next(answers):
            raise failure
        return "answer"

    assert patiently("file", ask, patience(60)) == "answer"
