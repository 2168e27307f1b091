"""Worker processes of a loader, which live and die with the process that started them.

Whoever asks a run to end often signals the whole group of its processes: a terminal, ``timeout``,
a shell's ``kill``. The main process then saves; a loader's worker that died of the signal meanwhile
would fail the step that it is in.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

_FOR_THE_MAIN_PROCESS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class GuardedLoader(DataLoader[Any]):
    """A loader whose workers leave the signals of the group to the main process."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        """Arguments as of :class:`torch.utils.data.DataLoader`."""
        super().__init__(dataset, worker_init_fn=_end_with_the_parent_alone, **options)

    def __iter__(self) -> Any:
        """See :class:`torch.utils.data.DataLoader`."""
        # A worker inherits what is held back, and so cannot die before it has made its own choice.
        with _held_back():
            return super().__iter__()


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold signals back in this thread. Other threads, and what follows, get those that come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_MAIN_PROCESS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_parent_alone(worker: int) -> None:
    """In a worker: ignore what anybody sends but the parent, whose SIGTERM ends a worker that does
    not end by itself."""
    for number in _FOR_THE_MAIN_PROCESS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_wait_for_the_parent, name="signals", daemon=True).start()


def _wait_for_the_parent() -> None:
    while True:
        # SIGTERM stays held back in all threads of the worker, so that it arrives nowhere else.
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == os.getppid():
            os._exit(0)
