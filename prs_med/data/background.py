"""An iterator that works ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Iterator[T], Generic[T]):
    """What another iterator gives, a few items ahead; what that raises is raised here.

    Close it when it is no longer needed: the thread ends, and the other iterator is closed in it.
    """

    def __init__(self, items: Iterator[T], ahead: int) -> None:
        """``ahead``: how many items may wait to be taken."""
        self._items = items
        self._ready: queue.Queue[tuple[bool, T | BaseException]] = queue.Queue(ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._closing.is_set():
            raise StopIteration
        good, item = self._ready.get()
        if good:
            return item  # type: ignore[return-value]
        self.close()
        assert isinstance(item, BaseException), "the thread puts an exception here"
        raise item

    def close(self) -> None:
        """End the thread; items that were not taken are lost."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put((True, item)):
                    return
            self._put((False, StopIteration()))
        except BaseException as error:
            self._put((False, error))
        finally:
            close = getattr(self._items, "close", None)
            if close:
                close()

    def _put(self, entry: tuple[bool, T | BaseException]) -> bool:
        """Wait for room; whether the item was put."""
        while not self._closing.is_set():
            try:
                self._ready.put(entry, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False
