"""A ``python`` that lets a server fork the program. Run by the standard library alone (-I -S).

client.py FOLDER PYTHON ALIAS ARGUMENT...

FOLDER has the servers' sockets, PYTHON is the interpreter that they are, ALIAS the path by which
this client was called. What a server cannot stand in for is started by PYTHON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

READ_AT_IMPORT = (
    *("HF_DATASETS_CACHE", "HF_HOME", "HF_HUB_OFFLINE"),
    *("OMP_NUM_THREADS", "PRS_MED_VERBOSE", "PYTHONHASHSEED", "TRITON_INTERPRET"),
)
"""Variables that libraries read when they are imported, which a server has done."""
NEEDS_ITS_PARENT = "torch/_inductor/compile_worker"
"""torch.compile would wait for ever for what this one compiles."""
FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT),
)
LARGEST_MESSAGE = 200_000


def main() -> None:
    folder, python, alias, *arguments = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        if not (is_a_program(arguments) and fits(folder) and connected(server, folder)):
            start_for_real(folder, python, arguments)
        request = {
            "arguments": arguments,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "python": alias,
            "streams": inherited(),
        }
        for number in FORWARDED:
            signal.signal(number, lambda caught, _: server.send(b"signal %d" % caught))
        socket.send_fds(server, [json.dumps(request).encode()], request["streams"])
        answer = server.recv(LARGEST_MESSAGE)
    if not answer:
        raise SystemExit("the fork server has gone")
    end_as(json.loads(answer))


def is_a_program(arguments: list[str]) -> bool:
    """Whether it is one that the server can run: a script or a module, and none that ends when its
    parent is another process than the one that has started it."""
    words = [word for word in arguments if word != "-u"]
    if not words or any(NEEDS_ITS_PARENT in word for word in words[:2]):
        return False
    return words[0] == "-m" or not words[0].startswith("-")


def inherited() -> list[int]:
    """The open files that whoever started this program has given it, by their numbers."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # that of the listing
            continue
    return found


def fits(folder: str) -> bool:
    """Whether the server's process is such a one as would be started here."""
    try:
        with open(f"{folder}/surroundings.json", encoding="utf-8") as file:
            return json.load(file) == surroundings()
    except OSError:
        return False


def surroundings() -> dict[str, str | None]:
    """What a process has from its parent and cannot be given over."""
    found = {name: os.environ.get(name) for name in READ_AT_IMPORT}
    return {**found, "network": os.readlink("/proc/self/ns/net"), "user": str(os.getuid())}


def connected(server: socket.socket, folder: str) -> bool:
    """Processes of even and odd rank are forked from servers whose sets have other orders, as the
    sets of processes that start from nothing do."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    try:
        server.connect(f"{folder}/{int(rank) % 2}.socket")
    except OSError:
        return False
    return True


def start_for_real(folder: str, python: str, arguments: list[str]) -> None:
    """Become the interpreter. It never returns."""
    os.execv(python, [python, *arguments])


def end_as(ended: dict[str, int]) -> None:
    """End as the program did, by its signal if it had one."""
    code = ended["code"]
    if code < 0:
        if -code in FORWARDED:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
