"""An upstream that does exactly what a test says, octet by octet, over real loopback sockets.

It records every octet of every connection and runs one script per connection. A script is a coroutine function that
gets the ``ScriptedConnection``; ``answering`` makes the usual one::

    async with ScriptedUpstream(answering(OK, OK)) as upstream:            # one answer per request, on each connection
        ...
        assert upstream.connections[0].received == b"GET / HTTP/1.1\\r\\n..."

    async def slow(connection: ScriptedConnection) -> None:                # anything else is written out
        await connection.request()                                         # waits for a whole request, body included
        connection.send(HEAD)
        await connection.stall()                                           # until the test says upstream.go_on()
        connection.send(BODY)

    async with ScriptedUpstream(slow, answering(OK)) as upstream:          # the 1st connection, and all others
        ...

A connection can send in pieces, answer early (before ``request``: wait for ``received_octets`` instead), send more than
it was asked for, stop reading, reset (``reset``: RST, by SO_LINGER 0), half-close, close before or after any octet, and
talk unasked while it is idle. After its script has ended, it stays open until the other side closes, goes on recording,
and can still be told to do any of these by the test. A script that fails fails the test when the server is left.

With ``ssl`` it speaks TLS; ``cut`` then closes the TCP connection without TLS's goodbye. ``host`` may be an address of
either family. Everything is bounded by ``WITHIN_S``.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Self, cast

from proxy.tasks import Tasks
from proxy.transports import abort

WITHIN_S = 20.0  # nothing in a test takes as long; a script that waits for longer has failed

Script = Callable[["ScriptedConnection"], Awaitable[None]]

_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:[ \t]*chunked[ \t]*\r$")


class ScriptedConnection(asyncio.Protocol):
    """One connection as the upstream sees it."""

    def __init__(self, upstream: ScriptedUpstream, index: int) -> None:
        self.upstream = upstream
        self.index = index  # 0 for the first that was accepted
        self.received = bytearray()  # every octet so far
        self.requests: list[bytes] = []  # what `request` returned
        self.eof = False  # the other side has ended its sending (half-closed or closed)
        self.lost = False  # the connection is gone
        self.script_over = False
        self.loss: Exception | None = None  # with this error: ConnectionResetError when the other side reset it
        self.transport: asyncio.Transport
        self._taken = 0  # octets of `received` that `request` has returned
        self._chunk_at = 0  # where the chunk begins that was looked at last
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # ---- what has come

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something about this connection is so; looked at with each event on it."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def request(self) -> bytes:
        """Waits for the next whole request and returns its octets: head, and body by Content-Length or in chunks.

        Raises EOFError if the connection ends before, so that a script may serve until then.
        """
        await self.until(lambda: self._request_end() is not None or self.eof or self.lost)
        end = self._request_end()
        if end is None:
            raise EOFError("the connection ended within, or before, a request")
        request = bytes(self.received[self._taken : end])
        self._taken = end
        self.requests.append(request)
        return request

    async def head(self) -> bytes:
        """Waits for the next request's head alone; `request` still returns the whole."""
        await self.until(lambda: b"\r\n\r\n" in self.received[self._taken :] or self.eof or self.lost)
        if b"\r\n\r\n" not in self.received[self._taken :]:
            raise EOFError("the connection ended within, or before, a head")
        end = self.received.index(b"\r\n\r\n", self._taken) + 4
        return bytes(self.received[self._taken : end])

    async def received_octets(self, count: int) -> None:
        """Waits until so many octets have come in all."""
        await self.until(lambda: len(self.received) >= count or self.eof or self.lost)
        if len(self.received) < count:
            raise EOFError("the connection ended before so many octets")

    async def ended(self) -> None:
        """Waits until the other side has closed its half, or the connection is gone."""
        await self.until(lambda: self.eof or self.lost)

    async def gone(self) -> None:
        """Waits until the other side has ended the connection, and it is gone on this side too."""
        await self.ended()
        self.transport.close()
        await self.until(lambda: self.lost)

    # ---- what to do

    def send(self, data: bytes) -> None:
        """Sends octets, in one piece as far as TCP keeps it."""
        self.transport.write(data)

    async def send_slowly(self, data: bytes, size: int = 1) -> None:
        """Sends octets in pieces of so many; each is on the wire before the next, so that it is mostly read apart."""
        for at in range(0, len(data), size):
            self.send(data[at : at + size])
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, in which the other side may read

    async def send_flowing(self, data: bytes) -> None:
        """Sends octets and waits while the other side does not read."""
        self.send(data)
        async with asyncio.timeout(WITHIN_S):
            await self._writable.wait()

    async def stall(self) -> None:
        """Waits until the test calls `go_on` of the server; each call ends one stall."""
        self.upstream.stalled += 1
        async with asyncio.timeout(WITHIN_S):
            await self.upstream.permits.acquire()

    def stop_reading(self) -> None:
        """Reads no more, so that the other side meets backpressure."""
        self.transport.pause_reading()

    def read_again(self) -> None:
        """Reads again."""
        self.transport.resume_reading()

    def half_close(self) -> None:
        """Ends this side's sending; not under TLS, which has no half."""
        self.transport.write_eof()

    def close(self) -> None:
        """Closes after all was sent; under TLS with its goodbye."""
        self.transport.close()

    def reset(self) -> None:
        """Closes with a RST; what was not sent yet is lost."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        abort(self.transport)

    def cut(self) -> None:
        """Closes TCP at once, after what the system has taken: under TLS without its goodbye."""
        abort(self.transport)

    # ---- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.upstream.accepted(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()
        self.upstream.changed()

    def eof_received(self) -> bool:
        self.eof = True
        self._changed.set()
        self.upstream.changed()
        # a script may still answer a half-closed connection, but for TLS, which has no half
        return not self.script_over and self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.loss = exc
        self._changed.set()
        self._writable.set()
        self.upstream.changed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _request_end(self) -> int | None:
        """Returns where the next request ends, None while it is not whole. Looks at no octet of a body twice."""
        received = self.received
        head_end = received.find(b"\r\n\r\n", self._taken) + 4
        if head_end < 4:
            return None
        head = bytes(received[self._taken : head_end])
        if _CHUNKED.search(head) is None:
            length = _LENGTH.search(head)
            end = head_end + (int(length[1]) if length is not None else 0)
            return end if len(received) >= end else None
        at = max(self._chunk_at, head_end)
        while (line_end := received.find(b"\r\n", at)) >= 0:
            self._chunk_at = at
            size = int(received[at:line_end].split(b";")[0], 16)
            at = line_end + 2 + size + 2  # trailers are not expected
            if size == 0 or at > len(received):
                return at if size == 0 and len(received) >= at else None
        return None


class ScriptedUpstream:
    """The server: an async context manager. The last script serves every further connection."""

    def __init__(
        self,
        *scripts: Script,
        host: str = "127.0.0.1",
        ssl: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        """`receive_buffer` is the size of the system's buffer, in octets: small, to meet backpressure soon."""
        self.scripts = scripts or (silent,)
        self.host = host
        self.port = 0
        self.connections: list[ScriptedConnection] = []  # in the order of being accepted
        self.permits = asyncio.Semaphore(0)
        self.stalled = 0  # how often a script has begun to stall
        self._ssl = ssl
        self._receive_buffer = receive_buffer
        self._tasks = Tasks()
        self._scripts_run: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def open(self) -> int:
        """How many connections are not gone."""
        return sum(not connection.lost for connection in self.connections)

    @property
    def received(self) -> list[bytes]:
        """Every octet received, by connection."""
        return [bytes(connection.received) for connection in self.connections]

    def go_on(self, times: int = 1) -> None:
        """Ends so many stalls, of those under way or to come."""
        for _ in range(times):
            self.permits.release()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until something about the connections is so; looked at with each event on any of them."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def connection(self, index: int = 0) -> ScriptedConnection:
        """Waits for the connection of this number and returns it."""
        await self.until(lambda: len(self.connections) > index)
        return self.connections[index]

    def changed(self) -> None:
        """Has `until` look again."""
        self._changed.set()

    def accepted(self, connection: ScriptedConnection) -> None:
        """Runs the script of a new connection."""
        connection.index = len(self.connections)
        self.connections.append(connection)
        script = self.scripts[min(connection.index, len(self.scripts) - 1)]
        self._scripts_run.append(self._tasks.start(_run(script, connection), name=f"script {connection.index}"))
        self.changed()

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        listener.bind((self.host, self.port))
        self.port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ScriptedConnection(self, -1), sock=listener, ssl=self._ssl, backlog=2048
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *details: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            abort(connection.transport)
        await self.until(lambda: all(connection.lost for connection in self.connections))
        failures = [task.exception() for task in self._scripts_run if task.done() and not task.cancelled()]
        await self._tasks.stop()
        for failure in failures:
            if failure is not None and kind is None:
                raise failure


async def _run(script: Script, connection: ScriptedConnection) -> None:
    try:
        await script(connection)
    except EOFError:
        pass  # the other side has gone; a test that minds looks at the connection
    finally:
        connection.script_over = True
        if connection.eof:
            connection.close()


async def silent(connection: ScriptedConnection) -> None:
    """A script that records and never says anything."""


def answering(*answers: bytes) -> Script:
    """Returns a script that sends these answers, one for each whole request; the connection stays open afterwards."""

    async def script(connection: ScriptedConnection) -> None:
        for answer in answers:
            await connection.request()
            connection.send(answer)

    return script


def always(answer: bytes) -> Script:
    """Returns a script that sends the same answer for each whole request."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.request()
            connection.send(answer)

    return script


def early(answer: bytes, *, after: int = 1) -> Script:
    """Returns a script that answers as soon as so many octets have come, and reads on."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(after)
        connection.send(answer)

    return script


def ok(body: bytes = b"", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """Returns an answer with a Content-Length; `fields` are whole lines without CRLF."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
