"""Imports what programs need, then forks a process for each one that a client asks for.

server.py FOLDER NUMBER OWNER: listens on FOLDER/NUMBER.socket until the process OWNER has ended.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DIE_WITH_PARENT = 1
_LARGEST_MESSAGE = 200_000
_MOST_FILES = 64
_FURTHER = (
    *("deepspeed.launcher.launch", "deepspeed.launcher.runner", "torch.distributed.run"),
    *("deepspeed.ops.op_builder.all_ops", "deepspeed.moe.layer", "deepspeed.runtime.zero.muon"),
    *("torch._dynamo", "torch._inductor.compile_fx", "accelerate", "tensorboard", "boto3"),
)
"""Modules that programs of the package import late, or that launchers are."""


@dataclass
class Request:
    """A program to run, as its client was called."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    python: str
    streams: list[int]
    """The numbers that its open files have."""


class Server:
    """Takes requests, and tells each client how its program ended."""

    def __init__(self, folder: Path, number: int, owner: int) -> None:
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Known by that name when it listens.
        self._listener.bind(str(folder / f"{number}.starting"))
        self._listener.listen(64)
        (folder / f"{number}.starting").rename(folder / f"{number}.socket")
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ, self._leave)

    def serve(self) -> Request:
        """Serve for ever. In each process that is forked, return what it is to do."""
        while True:
            for key, _ in self._selector.select():
                request = key.data(key.fileobj)
                if request is not None:
                    return request

    def _leave(self, _: Any) -> None:
        os._exit(0)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        self._selector.register(client, selectors.EVENT_READ, self._begin)

    def _begin(self, client: socket.socket) -> Request | None:
        message, files, *_ = socket.recv_fds(client, _LARGEST_MESSAGE, _MOST_FILES)
        if not message:
            self._selector.unregister(client)
            client.close()
            return None
        process = os.fork()
        if process == 0:
            self._close()
            request = Request(**json.loads(message))
            _take_over(files, request.streams)
            return request
        for file in files:
            os.close(file)
        link = self._folder / "clients" / str(_process_at_the_end_of(client))
        link.symlink_to(str(process))
        end = os.pidfd_open(process)
        self._selector.register(
            end, selectors.EVENT_READ, lambda _: self._ended(end, process, client, link)
        )
        self._selector.modify(client, selectors.EVENT_READ, lambda _: self._hear(client, process))
        self._count(message)
        return None

    def _count(self, message: bytes) -> None:
        """Among the programs that the tests start; see ``tests/counted_starts``."""
        request = json.loads(message)
        if file := request["environment"].get("PRS_MED_TEST_STARTS"):
            with Path(file).open("a", encoding="utf-8") as starts:
                starts.write(f"forked {' '.join(request['arguments'])[:200]!r}\n")

    def _hear(self, client: socket.socket, process: int) -> None:
        message = client.recv(100)
        with suppress(ProcessLookupError):
            # A client that was killed is a program that was killed.
            os.kill(process, int(message.split()[1]) if message else signal.SIGKILL)
        if not message:
            self._selector.unregister(client)

    def _ended(self, end: int, process: int, client: socket.socket, link: Path) -> None:
        _, status = os.waitpid(process, 0)
        link.unlink()
        self._selector.unregister(end)
        os.close(end)
        with suppress(OSError):
            client.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
        with suppress(KeyError):
            self._selector.unregister(client)
        client.close()

    def _close(self) -> None:
        """In a forked process: nothing of the server is left."""
        for key in [*self._selector.get_map().values()]:
            os.close(key.fd) if isinstance(key.fileobj, int) else key.fileobj.close()
        self._selector.close()


def _take_over(files: list[int], numbers: list[int]) -> None:
    """Give open files the numbers that they are to have."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, 500) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(apart, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _process_at_the_end_of(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


def run(request: Request) -> int:
    """Be the process of a program; its exit status."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.setpgid(0, 0)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.executable = request.python
    words = [word for word in request.arguments if word != "-u"]
    # The server's own believes that it is a file.
    unbuffered = len(words) < len(request.arguments)
    sys.stdout = open(1, "w", 1 if unbuffered else -1, closefd=False)  # noqa: SIM115
    is_module = words[0] == "-m"
    sys.argv = words[1:] if is_module else words
    sys.path[0] = request.folder if is_module else str(Path(words[0]).resolve().parent)
    for place in reversed(request.environment.get("PYTHONPATH", "").split(":")):
        if place and place not in sys.path:
            sys.path.insert(1, place)
    try:
        if is_module:
            # Imported by the server, it would be there twice, and runpy warns of that.
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> None:
    """What an interpreter does at its end, but for taking modules to pieces."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def import_everything() -> None:
    """The package, the libraries that it uses, and the launchers."""
    import prs_med

    for module in pkgutil.walk_packages(prs_med.__path__, "prs_med."):
        importlib.import_module(module.name)
    for name in _FURTHER:
        with suppress(ImportError):
            importlib.import_module(name)
    from PIL import Image
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # What these make once for a process, 0.3 s of each program.
    Image.init()
    get_checkpoint_conversion_mapping("llava")


if __name__ == "__main__":
    import_everything()
    # Otherwise a collection in each forked process would copy the memory of all these objects.
    gc.freeze()
    plan = Server(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])).serve()
    end(run(plan))
