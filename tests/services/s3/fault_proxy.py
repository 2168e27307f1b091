"""An HTTP proxy before an S3 server that is faithful until a test asks it for a fault.

Real servers do not fail when a test wants them to. Everything passes through unchanged, the Host
header too, so that the server still verifies the signatures that clients made for the proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fcntl import ioctl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.patience import patience

BLOCK = 1 << 18
CONTINUE_WAIT_S = 1.0
TRICKLES_PER_S = 20


@dataclass
class Request:
    """One request as it arrived, and how it was answered.

    ``status`` is None as long as nothing was answered; ``received`` and ``sent`` count the bytes of
    the two bodies, the latter as handed to the connection.
    """

    number: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int | None = None
    received: int = 0
    sent: int = 0

    @property
    def range(self) -> str | None:
        """The Range header, such as ``bytes=0-99``."""
        return self.headers.get("range")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer. Fields combine; offsets count bytes of the body.

    ``status`` and ``reset`` come instead of the server, which never sees the request, unless
    ``performed``: then the server carries it out and only its answer is lost. What starts with
    ``upload`` concerns the body of the request: it reaches the server with a byte flipped, or its
    first bytes do and then both connections end. ``etag`` is what the answer says of the object.
    """

    delay_s: float = 0.0
    status: int | None = None
    code: str = "SlowDown"
    reset: bool = False
    performed: bool = False
    cut_after: int | None = None
    bytes_per_s: float | None = None
    flip_at: int | None = None
    upload_flip_at: int | None = None
    upload_cut_after: int | None = None
    etag: str | None = None

    @property
    def replaces_answer(self) -> bool:
        """Whether the server's own answer never reaches the client."""
        return self.reset or self.status is not None


NO_FAULT = Fault()


class Answer(NamedTuple):
    """Status line, headers and body that are about to be sent."""

    status: int
    reason: str
    headers: Iterable[tuple[str, str]]
    body: Iterable[bytes]
    chunked: bool = False


def refusal(method: str, status: int, code: str) -> Answer:
    """An error of S3 as its servers write it; no body in answer to HEAD."""
    text = f"<Error><Code>{code}</Code><Message>Asked for by the test.</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    reason = http.client.responses.get(status, "Fault")
    return Answer(status, reason, headers, [] if method == "HEAD" else [body])


def body_of(stream: io.BufferedIOBase, length: int | None, chunked: bool) -> Iterator[bytes]:
    """The body as it arrives, without the frames of chunked encoding (trailers are not kept).

    With neither a length nor chunks it ends with the connection.
    """
    if not chunked:
        yield from _bytes_of(stream, length)
        return
    while True:
        line = stream.readline()
        if not line:
            raise ConnectionError("closed between two chunks")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        yield from _bytes_of(stream, size)
        stream.readline()
    while stream.readline().strip():
        pass


def _bytes_of(stream: io.BufferedIOBase, length: int | None) -> Iterator[bytes]:
    left = length
    while left is None or left > 0:
        block = stream.read1(BLOCK if left is None else min(left, BLOCK))
        if not block:
            if left is None:
                return
            raise ConnectionError(f"closed {left} bytes before the end of the body")
        if left is not None:
            left -= len(block)
        yield block


def framed(body: Iterable[bytes], chunked: bool) -> Iterator[bytes]:
    """The body in the frames of chunked encoding, or as it is."""
    if not chunked:
        yield from body
        return
    for block in body:
        yield b"%x\r\n%b\r\n" % (len(block), block)
    yield b"0\r\n\r\n"


def flipped(body: Iterable[bytes], at: int) -> Iterator[bytes]:
    """The body with every bit of the byte at offset ``at`` turned."""
    position = 0
    for block in body:
        if position <= at < position + len(block):
            changed = bytearray(block)
            changed[at - position] ^= 0xFF
            yield bytes(changed)
        else:
            yield block
        position += len(block)


def first_bytes(body: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first ``count`` bytes of the body."""
    left = count
    for block in body:
        if left <= 0:
            return
        yield block[:left]
        left -= len(block)


def in_pieces(body: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The body in pieces of at most ``size`` bytes."""
    for block in body:
        for start in range(0, len(block), size):
            yield block[start : start + size]


class _Server(ThreadingHTTPServer):
    """Threads that end with the program, connections that can be cut, no messages about both."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.proxy = proxy
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        lingers, seconds = struct.unpack(
            "ii", request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        )
        if lingers and not seconds:
            request.close()  # a shutdown first would end the connection in order
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one connection to the server behind it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.proxy.upstream)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error: the proxy has a log."""

    def handle_expect_100(self) -> bool:
        """Leave it to the server whether it wants the body."""
        return True

    def relay(self) -> None:
        """Answer one request, whatever its method."""
        # The handler's own `path` has lost repeated slashes.
        path, _, query = self.requestline.split()[1].partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request, fault = self.server.proxy.arrived(self.command, path, query, headers)
        try:
            if fault.replaces_answer and not fault.performed:
                if not self._expects_continue() or fault.delay_s:
                    self._take_body(request)
                self._answer(request, fault, None)
            else:
                self._forward(request, fault)
                with self.upstream.getresponse() as response:
                    self._answer(request, fault, response)
        except (OSError, http.client.HTTPException):
            # Either side has gone: the other must not take what it has for the whole.
            self.upstream.close()
            self._reset()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = relay

    def _expects_continue(self) -> bool:
        return self.headers.get("Expect", "").lower() == "100-continue"

    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _body(self, request: Request) -> Iterator[bytes]:
        length = int(self.headers.get("Content-Length") or 0)
        for block in body_of(self.rfile, length, self._chunked()):
            request.received += len(block)
            yield block

    def _take_body(self, request: Request) -> None:
        """Read the body and forget it: a client that still sends would not read an answer."""
        if self._expects_continue():
            self._continue()
        for _ in self._body(request):
            pass

    def _continue(self) -> None:
        self.send_response_only(100)
        self.end_headers()

    def _forward(self, request: Request, fault: Fault) -> None:
        """Send head and body to the server, up to where it can be asked for its answer."""
        if self.upstream.sock and _readable(self.upstream.sock, 0):
            self.upstream.close()  # the server has closed it since the last request
        target = self.requestline.split()[1]
        self.upstream.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            self.upstream.putheader(name, value)
        self.upstream.endheaders()
        if self._expects_continue():
            if self._answers_without_body():
                return
            self._continue()
        content = self._body(request)
        if fault.upload_flip_at is not None:
            content = flipped(content, fault.upload_flip_at)
        if fault.upload_cut_after is not None:
            for block in first_bytes(content, fault.upload_cut_after):
                self.upstream.send(block)
            raise ConnectionAbortedError("the upload is cut off")
        body = framed(content, self._chunked())
        for block in body:
            try:
                self.upstream.send(block)
            except OSError:  # it may have answered before it closed
                break
        for _ in body:
            pass

    def _answers_without_body(self) -> bool:
        """Whether the server has a final answer and does not wait for the body."""
        upstream = self.upstream.sock
        if not _readable(upstream, CONTINUE_WAIT_S):
            return False
        return upstream.recv(12, socket.MSG_PEEK)[9:] != b"100"

    def _answer(
        self, request: Request, fault: Fault, response: http.client.HTTPResponse | None
    ) -> None:
        if response is not None and fault.replaces_answer:
            response.read()
        self._wait(fault.delay_s)
        if fault.reset:
            self._reset()
            return
        if fault.status is not None or response is None:
            answer = refusal(self.command, fault.status or 503, fault.code)
        else:
            answer = self._passed_on(response)
        request.status = answer.status
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            is_etag = name.lower() == "etag" and fault.etag is not None
            self.send_header(name, f'"{fault.etag}"' if is_etag else value)
        self.end_headers()
        for block in framed(self._counted(request, fault, answer.body), answer.chunked):
            self.wfile.write(block)
            if fault.bytes_per_s:
                self._wait(len(block) / fault.bytes_per_s)
        if fault.cut_after is not None:
            self._reset()

    def _wait(self, seconds: float) -> None:
        if self.server.proxy.closing.wait(seconds):
            raise ConnectionAbortedError("the proxy has stopped")

    def _passed_on(self, response: http.client.HTTPResponse) -> Answer:
        empty = self.command == "HEAD" or response.length == 0
        if response.length is None and not response.chunked:
            self.close_connection = True
        body = [] if empty else body_of(response.fp, response.length, response.chunked)
        chunked = response.chunked and not empty
        return Answer(response.status, response.reason, response.msg.items(), body, chunked)

    def _counted(self, request: Request, fault: Fault, body: Iterable[bytes]) -> Iterator[bytes]:
        """The body with the faults that concern it, counted before a client can have seen it."""
        if fault.flip_at is not None:
            body = flipped(body, fault.flip_at)
        if fault.cut_after is not None:
            body = first_bytes(body, fault.cut_after)
        if fault.bytes_per_s:
            body = in_pieces(body, max(1, int(fault.bytes_per_s / TRICKLES_PER_S)))
        for block in body:
            request.sent += len(block)
            yield block

    def _reset(self) -> None:
        """End the connection with a reset, after the client's side has what was sent."""
        self.close_connection = True
        deadline = time.monotonic() + patience(10)
        with contextlib.suppress(OSError):
            while _unsent_bytes(self.connection) and time.monotonic() < deadline:
                time.sleep(0.001)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def _readable(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side sends something or closes within this time."""
    poll = select.poll()  # select() itself knows only the first 1024 files of a process
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _unsent_bytes(connection: socket.socket) -> int:
    """Bytes that the other side has not acknowledged; a reset would throw them away."""
    count: int = struct.unpack("i", ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]
    return count


class FaultProxy:
    """Listens on ``port`` of loopback, or on a free one, from the start, until ``stop``.

    ``faults`` decides for each request what goes wrong; it is asked one request at a time, so that
    it may count, and can be replaced at any time. What it raises is printed, and the connection
    ends.
    """

    def __init__(self, upstream_endpoint: str, port: int = 0) -> None:
        parts = urlsplit(upstream_endpoint)
        if parts.scheme != "http":
            raise ValueError(f"{upstream_endpoint}: only http:// can be passed through")
        self.upstream = parts.netloc
        self.faults: Callable[[Request], Fault | None] = lambda request: None
        self.closing = threading.Event()
        self._log: list[Request] = []
        self._lock = threading.RLock()
        self._server = _Server(self, port)
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The proxy's own address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def log(self) -> list[Request]:
        """Every request so far in the order of arrival."""
        with self._lock:
            return list(self._log)

    def arrived(
        self, method: str, path: str, query: str, headers: dict[str, str]
    ) -> tuple[Request, Fault]:
        """Record a request and ask what shall go wrong with it."""
        with self._lock:
            request = Request(len(self._log) + 1, method, path, query, headers)
            self._log.append(request)
            return request, self.faults(request) or NO_FAULT

    def stop(self) -> None:
        """Stop listening and cut every connection, delays and trickles included."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
