"""Failures of storage that pass and that do not, what is made of them, and who is told."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.checkpoint.preflight import check_store
from prs_med.data.dataset.checked_read import read_checked
from prs_med.data.dataset.index import read_index
from prs_med.data.records import DataError
from prs_med.programs.program import program, refused
from prs_med.storage import retry
from prs_med.storage.directory import DirectoryStore
from prs_med.storage.failures import (
    FULL,
    NO_CREDENTIALS,
    NO_RIGHT,
    OF_FOLDERS,
    OF_S3,
    OTHER,
    OVERLOADED,
    folder_error,
    s3_failure,
)
from prs_med.storage.retry import (
    Outage,
    TransientError,
    patiently,
    waiting_for_storage,
    waits_for_storage,
)
from prs_med.storage.store import MissingFileError, StorageAwayError, StorageError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
CODES = sorted(code for failure in OF_S3 for code in failure.codes)


def test_each_code_and_status_means_one_thing() -> None:
    assert len(CODES) == len(set(CODES))
    statuses = [status for failure in OF_S3 for status in failure.statuses]
    assert len(statuses) == len(set(statuses))


@given(st.sampled_from(CODES), st.integers(300, 599))
def test_a_code_says_more_than_a_status(code: str, status: int) -> None:
    assert code in s3_failure(status, code).codes


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (500, "", OVERLOADED),
        (599, "SomethingNew", OVERLOADED),
        (429, "", OVERLOADED),
        (507, "", FULL),
        (403, "SomethingNew", NO_RIGHT),
        (400, "ExpiredToken", NO_CREDENTIALS),
        (400, "SomethingNew", OTHER),
        (418, "", OTHER),
    ],
)
def test_unknown_answers_are_judged_by_their_status(status, code, failure) -> None:
    assert s3_failure(status, code) is failure


def test_the_guide_has_the_same_table() -> None:
    rows = re.findall(r"^\| (.+?) \| (passes|does not) \|", DOCUMENT.read_text(), re.MULTILINE)
    told = {what: kind == "passes" for what, kind in rows}
    assert told == {failure.what: failure.passing for failure in (*OF_S3, *OF_FOLDERS)}


@pytest.mark.parametrize(
    ("number", "away"),
    [
        (errno.ESTALE, True),
        (errno.ENOTCONN, True),
        (errno.ETIMEDOUT, True),
        (errno.ENOSPC, False),
        (errno.EACCES, False),
        (errno.EIO, False),
    ],
)
def test_a_network_file_system_that_is_away_is_told_from_other_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, away: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    store = DirectoryStore(tmp_path)
    store.write("x", b"1")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=os.strerror(number)) as raised:
        store.write("x", b"2")
    assert isinstance(raised.value, StorageAwayError) == away
    assert str(folder_error("x", OSError(number, "why"))) == "x: why"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_folder_without_hard_links_is_refused_at_the_start_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StorageError, match=r"has no hard links .* name a folder of another") as got:
        check_store(DirectoryStore(tmp_path))
    assert str(got.value).startswith(f"{tmp_path}: ")
    assert list(tmp_path.iterdir()) == []


def test_programs_end_with_75_where_storage_is_away_and_with_2_where_it_refuses(capsys) -> None:
    assert refused(StorageAwayError("s3://b/x: 503, for 300 seconds")) == 75
    assert refused(StorageError("s3://b/x: no right")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: s3://b/x: 503, for 300 seconds", "error: s3://b/x: no right"]  # fmt: skip

    @program
    def main(argv: object) -> int:
        raise StorageAwayError("away")

    assert main([]) == 75


class AwayStore(DirectoryStore):
    """A store that does not answer."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        raise StorageAwayError(f"{name}: 503")


def test_an_outage_is_no_mistake_in_the_data(tmp_path: Path) -> None:
    with pytest.raises(StorageAwayError):
        read_index(AwayStore(tmp_path))
    with pytest.raises(StorageAwayError):
        read_checked(lambda: AwayStore(tmp_path).read("x"), lambda data: True, "shard")

    def refuse() -> bytes:
        raise StorageError("x: no right")

    with pytest.raises(DataError, match="shard: x: no right"):
        read_checked(refuse, lambda data: True, "shard")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only while something is waited for."""
    now = [1000.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    return now


def test_an_outage_lasts_from_its_first_failure_to_the_next_answer(clock: list[float]) -> None:
    outage = Outage()
    assert outage.seconds() == 0
    for _ in range(3):
        outage.failed()
        clock[0] += 100
    assert outage.seconds() == 300
    outage.ended()
    assert outage.seconds() == 0


def test_an_outage_that_nobody_looked_at_for_long_is_forgotten(clock: list[float]) -> None:
    outage = Outage()
    outage.failed()
    clock[0] += 1000
    outage.failed()
    assert outage.seconds() == 0


def failing(times: int, error: Exception | None = None) -> object:
    left = [times]

    def action() -> str:
        if left[0]:
            left[0] -= 1
            raise error or TransientError("503")
        return "answer"

    return action


def test_what_others_have_found_out_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: lambda state: 0)
    outage = Outage()
    assert patiently("x", failing(5), 300, outage) == "answer"
    monkeypatch.setattr(outage, "seconds", lambda: 300.0)
    with pytest.raises(TransientError):
        patiently("x", failing(1), 300, outage)
    assert patiently("x", failing(0), 300, outage) == "answer"


def test_a_refusal_ends_an_outage_too() -> None:
    outage = Outage()
    outage.failed()
    with pytest.raises(MissingFileError):
        patiently("x", failing(1, MissingFileError("x")), 300, outage)
    assert outage.seconds() == 0


def test_who_waits_for_storage_says_so_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: lambda state: 0)

    def action() -> None:
        seen.append(waits_for_storage())
        if len(seen) < 3:
            raise TransientError("503")

    patiently("x", action, 300)
    assert seen == [False, True, True]
    assert not waits_for_storage()
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        with waiting_for_storage():
            inside.set()
            go_on.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait()
    with waiting_for_storage():
        assert waits_for_storage()
    assert waits_for_storage()
    go_on.set()
    thread.join()
    assert not waits_for_storage()
