"""Work in chunks that any process may do, each done once and kept.

What a chunk holds depends on its number alone, so the results are the same on any number of
processes, and work that was interrupted goes on with the chunks that are missing. All processes
must see the same folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prs_med.data.order import Rank
from prs_med.storage.store import StorageError

_POLL_SECONDS = 0.2

Chunk = dict[str, Any]
"""JSON values."""


class NoLongerNeededError(Exception):
    """The chunks are gone: another process has put everything together."""


class Chunks:
    """The chunks of one piece of work, files in a folder."""

    def __init__(self, folder: Path, total: int, size: int) -> None:
        """
        Args:
            folder: where the chunks are kept, for this piece of work alone.
            total: number of questions.
            size: questions in a chunk.
        """
        self._folder = folder
        self._total = total
        self._size = size
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return -(-self._total // self._size)

    def questions(self, chunk: int) -> range:
        """Numbers of the questions of a chunk."""
        return range(chunk * self._size, min((chunk + 1) * self._size, self._total))

    def do(
        self, rank: Rank, work: Callable[[range], Chunk], progress: Callable[[int], None]
    ) -> None:
        """Do the missing ones among the chunks of a process.

        Args:
            rank: the process.
            work: makes a chunk of the questions with these numbers.
            progress: told after each chunk how many questions all processes together have done.
        """
        for chunk in range(rank.index, len(self), rank.world):
            path = self._path(chunk)
            if not path.exists():
                content = work(self.questions(chunk))
                draft = path.with_suffix(".draft")
                draft.write_text(json.dumps(content), encoding="utf-8")
                draft.replace(path)
            progress(self.done())

    def done(self) -> int:
        """How many questions are in chunks that are there."""
        there = {path.name for path in self._folder.glob("*.json")}
        return sum(
            len(self.questions(chunk))
            for chunk in range(len(self))
            if self._path(chunk).name in there
        )

    def wait_for_all(self, progress: Callable[[int], None]) -> Iterator[Chunk]:
        """All chunks in their order, as soon as they are there. If a process fails, its launcher
        ends this one too.

        Raises:
            NoLongerNeededError: they were there, and are gone.
            StorageError: one is damaged.
        """
        for chunk in range(len(self)):
            while (loaded := self._load(chunk)) is None:
                progress(self.done())
                time.sleep(_POLL_SECONDS)
            yield loaded
        progress(self._total)

    def _load(self, chunk: int) -> Chunk | None:
        try:
            loaded: Chunk = json.loads(self._path(chunk).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self._folder.exists():
                return None
            raise NoLongerNeededError from None
        except ValueError:
            raise StorageError(
                f"{self._path(chunk)}: is damaged; remove it, and the same command makes it again"
            ) from None
        return loaded

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk:06d}.json"
