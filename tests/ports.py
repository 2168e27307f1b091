"""TCP ports for servers that tests start."""

from __future__ import annotations

import itertools
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 11
_PER_WORKER = 2000
_FIRST = random.SystemRandom().randrange(_PER_WORKER)
"""Another in each run of the tests, of which several may be under way on a machine."""
_CANDIDATES = itertools.cycle(
    10_000 + _PER_WORKER * _WORKER + (_FIRST + number) % _PER_WORKER
    for number in range(_PER_WORKER)
)
"""Below the ports that Linux gives to clients, each for one test process alone: a port stays free
while what will listen on it starts, which can take a process of DeepSpeed ten seconds."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and not the one given last."""
    for port in _CANDIDATES:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the candidates never end")
