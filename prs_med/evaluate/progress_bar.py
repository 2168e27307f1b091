"""How much of some questions is done, shown by the first process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from prs_med.data.order import Rank


@contextmanager
def progress_bar(what: str, total: int, rank: Rank) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes how many are done."""
    with tqdm(total=total, desc=what, unit="question", disable=rank.index > 0) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield show
