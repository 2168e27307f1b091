"""Processes of one machine that wait for each other and exchange small values."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from tests.patience import patience

_CONNECT_SECONDS = 60.0


class PeerGoneError(Exception):
    """Another process has ended."""


class Lockstep:
    """All processes make the same calls; process 0 passes on what the others say."""

    def __init__(self, name: str, rank: int, world: int) -> None:
        """``name`` is one that no other group of processes uses at the time."""
        self._rank = rank
        address = f"\0{name}"
        connections = []
        if rank:
            connections.append(_connected(address))
        elif world > 1:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(world)
                connections += [listener.accept()[0] for _ in range(world - 1)]
        self._files = [connection.makefile("rw", encoding="utf-8") for connection in connections]

    def exchange(self, value: Any) -> list[Any]:
        """What all processes give, by number.

        Raises:
            PeerGoneError: one of them has ended.
        """
        try:
            if self._rank:
                self._say(0, [self._rank, value])
                found: list[Any] = self._hear(0)
                return found
            others = [self._hear(number) for number in range(len(self._files))]
            by_rank = [value, *(given for _, given in sorted(others, key=lambda pair: pair[0]))]
            for number in range(len(self._files)):
                self._say(number, by_rank)
        except OSError as error:
            raise PeerGoneError from error
        return by_rank

    def first(self, value: Any) -> Any:
        """What process 0 gives."""
        return self.exchange(value)[0]

    def _say(self, number: int, value: Any) -> None:
        self._files[number].write(json.dumps(value) + "\n")
        self._files[number].flush()

    def _hear(self, number: int) -> Any:
        line = self._files[number].readline()
        if not line.endswith("\n"):
            raise PeerGoneError
        return json.loads(line)


def _connected(address: str) -> socket.socket:
    deadline = time.monotonic() + patience(_CONNECT_SECONDS)
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return connection
