"""One exchange as something to await: the general path's view of a connection.

Between ``open`` and the response's end it holds one connection of its pool. What was received and not yet read is
bounded: beyond a mark the connection stops reading, so the upstream is held back. Whatever goes wrong, a cancellation
included, closes the connection and frees its place; what had arrived before a failure can still be read.

Source: RFC 9209 §2.3 (error types).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from proxy.errors import ErrorType, GatewayError, Side
from proxy.http1.framing import Framing
from proxy.http1.wire import ResponseHead
from proxy.units import KIB
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import Pool

_HIGH_WATER = 64 * KIB  # octets received and not read; beyond, the connection is paused


class Exchange:
    """A request and its response, once. One task may send while another one reads."""

    __slots__ = (
        "_alone", "_connection", "_ended", "_error", "_head", "_interim", "_loop", "_on_informational", "_pool", "_queue",
        "_queued", "_reader", "_unwritable", "_writer",
    )  # fmt: skip

    def __init__(
        self,
        pool: Pool,
        *,
        on_informational: Callable[[ResponseHead], Awaitable[None]] | None = None,
        alone: bool = False,
    ) -> None:
        """Prepares an exchange.

        Args:
            pool: where its connection comes from, and goes back to.
            on_informational: awaited by `response`, for each interim response in order; None drops them.
            alone: no other exchange may follow on its connection.
        """
        self._pool = pool
        self._alone = alone
        self._on_informational = on_informational
        self._loop = asyncio.get_running_loop()
        self._connection: UpstreamConnection | None = None  # None before `open` and after the exchange's end
        self._interim: deque[ResponseHead] = deque()  # bounded by the connection
        self._head: tuple[ResponseHead, Framing] | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0  # octets
        self._ended = False  # the response is whole
        self._error: GatewayError | None = None
        self._unwritable = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @classmethod
    def adopted(cls, pool: Pool, connection: UpstreamConnection, head: ResponseHead, framing: Framing) -> Exchange:
        """Returns an exchange that was begun by another sink and has come as far as the final response's head."""
        exchange = cls(pool)
        exchange._connection = connection
        exchange._head = (head, framing)
        exchange._unwritable = connection.hand_to(exchange)
        connection.resume_reading()  # the other sink may have held it back, for a reason that does not count here
        return exchange

    # ---- for whoever makes the request

    @property
    def holds_connection(self) -> bool:
        """Tells whether it holds a connection of its pool."""
        return self._connection is not None

    async def open(self, *, connect_timeout_s: float | None, fresh: bool = False) -> None:
        """Takes hold of a connection; `fresh` wants one that was opened just now. Raises as `Pool.acquire` does."""
        connection = await self._pool.acquire(connect_timeout_s=connect_timeout_s, fresh=fresh)
        if self._error is not None:  # closed by another task meanwhile
            self._pool.release(connection)
            raise self._error
        self._connection = connection

    def start(self, head: bytes, *, method: bytes, body_expected: bool, upgrade: bytes = b"") -> None:
        """Sends the request's head; octets of the body may follow in the same piece. `upgrade` is its Upgrade field.

        With `body_expected`, `send` follows until `end_body`. Raises GatewayError(NOTHING_SENT) if the connection was
        closed since `open`.
        """
        try:
            self._held().start(head, method=method, sink=self, body_expected=body_expected, upgrade=upgrade)
        except GatewayError as error:
            self._over(error)
            raise

    async def send(self, data: bytes, *, timeout_s: float | None = None) -> None:
        """Sends octets of the request body; waits while the upstream does not take them, None or 0 = without bound.

        Raises GatewayError: connection_write_timeout, or what else ended the exchange; connection_terminated, if the
        response was over before the request. Cancelled, it ends the exchange, unless somebody awaits the response: an
        upstream that takes no more may still answer, and the connection will not serve again in any case.
        """
        self._held().write(data)
        while self._unwritable and self._connection is not None:
            self._writer = self._loop.create_future()
            late = (ErrorType.CONNECTION_WRITE_TIMEOUT, "the upstream does not read the request")
            try:
                await self._wait(self._writer, timeout_s or None, *late)
            except asyncio.CancelledError:
                if self._reader is None:
                    self.close()
                raise
        if self._error is not None:
            raise self._error

    def end_body(self) -> None:
        """Tells that the request body was sent as a whole: only then can the connection serve again."""
        if self._connection is not None:
            self._connection.end_body()

    async def response(self, timeout_s: float | None) -> tuple[ResponseHead, Framing]:
        """Returns the final response's head and its framing, within so many seconds; None or 0 is no bound.

        Raises GatewayError: http_response_timeout, or what else ended the exchange.
        """
        deadline_s = self._loop.time() + timeout_s if timeout_s else None
        while True:
            while self._interim and self._on_informational is not None:
                await self._told(self._on_informational, self._interim.popleft())
            if self._head is not None:
                return self._head
            if self._error is not None:
                raise self._error
            left_s = None if deadline_s is None else deadline_s - self._loop.time()
            await self._next_event(left_s, ErrorType.HTTP_RESPONSE_TIMEOUT, "no response in time")

    async def read(self, idle_timeout_s: float | None) -> bytes | None:
        """Returns what has come of the body, at least one octet, or None at its end.

        `idle_timeout_s` bounds the wait for the next octet, None or 0 does not. Raises GatewayError:
        http_response_incomplete if the body was cut off, connection_read_timeout, or what else ended the exchange.
        """
        while not self._queue:
            if self._ended:
                return None
            if self._error is not None:
                raise self._error
            await self._next_event(idle_timeout_s or None, ErrorType.CONNECTION_READ_TIMEOUT, "the response stalled")
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._queued = 0
        if self._connection is not None:
            self._connection.resume_reading()
        return data

    def give_away(self) -> UpstreamConnection:
        """Returns the connection after a 101, to be given away. Ends the exchange. Raises GatewayError if it is gone."""
        connection = self._held()
        self._connection = None
        self._ended = True
        return connection

    def finish(self) -> None:
        """Ends a used exchange: `close`, named for the good case. A whole response gave the connection back already."""
        self.close()

    def close(self) -> None:
        """Ends the exchange wherever it is: between `start` and the response's end, the connection is closed. Idempotent."""
        self._end_with(ErrorType.CONNECTION_TERMINATED, "given up by the gateway", Side.GATEWAY)

    # ---- for the connection: the sink's calls

    def on_informational(self, head: ResponseHead) -> None:
        """Keeps an interim response for `response`."""
        if self._on_informational is not None:
            self._interim.append(head)
            _wake(self._reader)

    def on_head(self, head: ResponseHead, framing: Framing) -> None:
        """Keeps the head."""
        self._head = (head, framing)
        _wake(self._reader)

    def on_data(self, data: bytes) -> None:
        """Queues octets; beyond the mark the connection pauses."""
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > _HIGH_WATER and self._connection is not None:
            self._connection.pause_reading()
        _wake(self._reader)

    def on_end(self) -> None:
        """Gives the connection back at once: what is left to read is here."""
        self._ended = True
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._alone:
                connection.close()
            else:
                self._pool.release(connection)
        _wake(self._reader)
        _wake(self._writer)

    def on_error(self, error: GatewayError) -> None:
        """Keeps the failure for whoever waits."""
        self._over(error)

    def on_unwritable(self) -> None:
        """Holds `send` back."""
        self._unwritable = True

    def on_writable(self) -> None:
        """Lets `send` go on."""
        self._unwritable = False
        _wake(self._writer)

    # ---- within

    def _held(self) -> UpstreamConnection:
        if self._error is not None:
            raise self._error
        if self._connection is None:
            assert self._ended, "open comes first"
            raise GatewayError(ErrorType.CONNECTION_TERMINATED, Side.UPSTREAM, "answered before the request was whole")
        return self._connection

    async def _next_event(self, timeout_s: float | None, late: ErrorType, detail: str) -> None:
        """Waits until the response goes on or the exchange ends. Cancelled, it ends it."""
        assert self._reader is None, "one task reads"
        self._reader = self._loop.create_future()
        try:
            await self._wait(self._reader, timeout_s, late, detail)
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._reader = None

    async def _wait(self, event: asyncio.Future[None], timeout_s: float | None, late: ErrorType, detail: str) -> None:
        """Waits for an event; a time that is over ends the exchange, which is an event too."""
        if timeout_s is None:
            await event
            return
        timer = self._loop.call_later(timeout_s, self._end_with, late, detail, Side.UPSTREAM)
        try:
            await event
        finally:
            timer.cancel()

    async def _told(self, tell: Callable[[ResponseHead], Awaitable[None]], head: ResponseHead) -> None:
        try:
            await tell(head)
        except BaseException:
            self.close()
            raise

    def _end_with(self, error_type: ErrorType, detail: str, side: Side) -> None:
        if not self._ended and self._error is None:
            self._over(GatewayError(error_type, side, detail))

    def _over(self, error: GatewayError) -> None:
        self._error = error
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)  # one on which nothing was sent can serve another; else it is closed
        _wake(self._reader)
        _wake(self._writer)


def _wake(event: asyncio.Future[None] | None) -> None:
    if event is not None and not event.done():
        event.set_result(None)
