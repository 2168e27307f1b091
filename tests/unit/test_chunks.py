"""Work that processes share by files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prs_med.data.order import Rank
from prs_med.evaluate.chunks import Chunks, NoLongerNeededError
from prs_med.storage.store import StorageError
from tests.patience import patience


def ignore(done: int) -> None:
    """No bar."""


@given(total=st.integers(0, 60), size=st.integers(1, 9), world=st.integers(1, 5))
def test_each_question_once_whichever_the_number_of_processes(
    tmp_path_factory: pytest.TempPathFactory, total: int, size: int, world: int
) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    worked: list[int] = []

    def work(numbers: range) -> dict[str, list[int]]:
        worked.extend(numbers)
        return {"numbers": list(numbers)}

    for rank in reversed(range(world)):
        Chunks(folder, total, size).do(Rank(rank, world), work, ignore)
    assert sorted(worked) == list(range(total))
    chunks = Chunks(folder, total, size)
    assert chunks.done() == total
    merged = [n for chunk in chunks.wait_for_all(ignore) for n in chunk["numbers"]]
    assert merged == list(range(total))
    # Nothing is done again.
    chunks.do(Rank(0, 1), work, ignore)
    assert len(worked) == total


def test_a_chunk_that_failed_is_done_by_the_next_run(tmp_path: Path) -> None:
    def fail(numbers: range) -> dict[str, int]:
        if numbers.start == 4:
            raise RuntimeError("the process died")
        return {"start": numbers.start}

    chunks = Chunks(tmp_path, 8, 2)
    with pytest.raises(RuntimeError):
        chunks.do(Rank(0, 1), fail, ignore)
    assert chunks.done() == 4
    progress: list[int] = []
    chunks.do(Rank(0, 1), lambda numbers: {"start": numbers.start}, progress.append)
    assert progress == [4, 4, 6, 8]
    assert [chunk["start"] for chunk in chunks.wait_for_all(ignore)] == [0, 2, 4, 6]


def test_the_first_process_waits_for_the_others(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path, 4, 1)
    chunks.do(Rank(0, 2), lambda numbers: {"by": 0}, ignore)
    waited = threading.Event()
    other = threading.Thread(
        target=lambda: (
            waited.wait(patience(30)),
            chunks.do(Rank(1, 2), lambda numbers: {"by": 1}, ignore),
        )
    )
    other.start()
    found = [chunk["by"] for chunk in chunks.wait_for_all(lambda done: waited.set())]
    other.join()
    assert found == [0, 1, 0, 1]


def test_a_process_that_waits_for_what_is_cleared_up_is_told(tmp_path: Path) -> None:
    chunks = Chunks(tmp_path / "gone", 4, 1)
    (tmp_path / "gone").rmdir()
    with pytest.raises(NoLongerNeededError):
        next(chunks.wait_for_all(ignore))


@pytest.mark.parametrize("content", ["", '{"by": '])
def test_a_damaged_chunk_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    chunks = Chunks(tmp_path, 2, 1)
    chunks.do(Rank(0, 1), lambda numbers: {"by": 0}, ignore)
    damaged = tmp_path / "000001.json"
    damaged.write_text(content)
    with pytest.raises(StorageError, match=f"{damaged}: is damaged; remove it"):
        list(chunks.wait_for_all(ignore))
