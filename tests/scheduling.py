"""How tests are dealt out to several processes."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

_SERVICES = "tests/services"


def longest_first(items: list[pytest.Item]) -> None:
    """Those that need a service take one process half an hour: begun last, they would keep one
    process busy for long after the other has done everything else."""
    items.sort(key=lambda item: not item.nodeid.startswith(f"{_SERVICES}/"))


class WholeFiles(LoadScopeScheduling):
    """The tests of a file run in one process, since they share what is costly to make; and so do
    all that need a service, since a machine has one Slurm and one package manager.

    xdist's own groups (``--dist loadgroup``) do nothing with pytest 9.2: they are written to
    ``item._nodeid``, which it no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _SERVICES if file.startswith(f"{_SERVICES}/") else file
