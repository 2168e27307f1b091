"""How tests are dealt out to several processes.

Lanes that mostly wait (for Slurm, S3, other machines, a browser) run beside each other and beside
those that compute. In a lane tests run one after another, since they share what is costly to make:
a machine has one Slurm, and one server of S3 is enough.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

WAITING = ("slurm", "s3", "machines", "documents", "system")
"""Folders of tests/services, each a lane. They are begun first, since the longest takes long."""


def lane(nodeid: str) -> str:
    """The lane of a test: a folder of tests/services, or the folder of tests."""
    words = nodeid.partition("::")[0].split("/")
    return words[2] if words[1] == "services" else words[1]


def longest_first(items: list[pytest.Item]) -> None:
    """Lanes that wait, then files that start processes, and the many short tests last, which fill
    what is left at the end."""
    order = {
        name: place
        for place, name in enumerate((*WAITING, "kernels", "crash", "distributed", "processes"))
    }
    items.sort(key=lambda item: order.get(lane(item.nodeid), len(order)))


class Lanes(LoadScopeScheduling):
    """The tests of a lane of services, and those of any other file, run in one process.

    xdist's own groups (``--dist loadgroup``) do nothing with pytest 9.2: they are written to
    ``item._nodeid``, which it no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = lane(nodeid)
        return name if name in WAITING else nodeid.partition("::")[0]
