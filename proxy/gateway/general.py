"""aiohttp's side of a client connection: one subclass of its protocol, by public overrides only.

It receives a connection from the front protocol with the first head's octets. What is ours here: the deadline for each
further request head, replies to what aiohttp's parser refuses (the stock ones echo the input and log tracebacks), and
word of the connection's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from proxy.errors import Problem, Refusal
from proxy.gateway import rescue
from proxy.gateway.front import whole_reply
from proxy.gateway.problem import Reply, problem_reply
from proxy.gateway.settings import Limits
from proxy.metrics import GatewayMetrics
from proxy.units import KIB, SECONDS

_READ_BUFFER = 64 * KIB  # octets held of a request body before the client is paused
_LINGER_S = 2 * SECONDS  # an early answer is given this long to be read before the connection closes
_FIELD_SLACK = 28  # aiohttp answers too many fields with a bare 400; ours is 431, so ours must come first


class GeneralServer(web.Server):
    """Makes aiohttp's part of connections and knows which of them are serving a request."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        limits: Limits,
        metrics: GatewayMetrics,
        new_request_id: Callable[[], bytes],
    ) -> None:
        super().__init__(self._serve, request_factory=self._begin, handler_cancellation=True)
        self._handler = handler
        self._limits = limits
        self.metrics = metrics
        self.new_request_id = new_request_id
        self._event_loop = asyncio.get_running_loop()

    def take(self, transport: asyncio.Transport, data: bytes, closed: Callable[[], None]) -> None:
        """Takes a connection over for good, with the octets received so far."""
        limits = self._limits
        connection = ClientConnection(
            self,
            loop=self._event_loop,
            head_timeout_s=limits.head_timeout_s,
            closed=closed,
            keepalive_timeout=limits.keepalive_timeout_s,
            access_log=None,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=limits.field_count + _FIELD_SLACK,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        )
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.data_received(data)

    def close_idle(self) -> None:
        """Closes the connections on which no request is under way."""
        for connection in self.connections:
            if isinstance(connection, ClientConnection) and connection.idle:
                connection.force_close()

    def _begin(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        assert isinstance(protocol, ClientConnection)
        protocol.request_begins()
        return web.BaseRequest(message, payload, protocol, writer, task, self._event_loop)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._handler(request)
        finally:
            protocol = request.protocol
            assert isinstance(protocol, ClientConnection)
            protocol.request_ends()


class ClientConnection(web.RequestHandler):
    """One client connection in aiohttp's hands."""

    __slots__ = ("_closed", "_deadline", "_event_loop", "_head_timeout_s", "_server", "_serving")

    def __init__(
        self,
        server: GeneralServer,
        *,
        loop: asyncio.AbstractEventLoop,
        head_timeout_s: float,
        closed: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self._server = server
        self._event_loop = loop
        self._head_timeout_s = head_timeout_s
        self._closed = closed
        self._serving = False
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Tells whether neither a request is served nor a head is under way."""
        return not self._serving and self._deadline is None

    def request_begins(self) -> None:
        """Notes that a head is complete."""
        self._serving = True
        self._end_deadline()

    def request_ends(self) -> None:
        """Notes that a request was answered."""
        self._serving = False

    def data_received(self, data: bytes) -> None:
        """Starts the deadline of a further head with its first octet."""
        if data and self.idle:
            self._deadline = self._event_loop.call_later(self._head_timeout_s, self._late)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells whoever counts connections."""
        self._end_deadline()
        super().connection_lost(exc)
        closed, self._closed = self._closed, _nothing
        closed()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's text quotes the client's octets
    ) -> web.StreamResponse:
        """Answers what aiohttp's parser refused: fixed text, nothing of the input, and the connection closes."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        if isinstance(exc, LineTooLong):
            problem = Problem.HEAD_TOO_LARGE
        elif isinstance(exc, BadHttpMethod):
            problem = Problem.NOT_IMPLEMENTED
        else:
            problem = Problem.BAD_REQUEST if status < 500 else Problem.INTERNAL
        self._server.metrics.count_refused(problem)
        self._server.metrics.unmatched.count_request(b"", problem.status)
        return _Refused(rescue.reply_to(Refusal(problem), self._server.new_request_id()))

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if not self._serving and self.transport is not None:
            self._server.metrics.count_refused(Problem.REQUEST_TIMEOUT)
            self.transport.write(whole_reply(problem_reply(Problem.REQUEST_TIMEOUT, self._server.new_request_id())))
            self.force_close()


class _Refused(web.StreamResponse):
    """A reply of ours in aiohttp's terms."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._reply = reply
        self._keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the whole reply."""
        await request.writer.write(whole_reply(self._reply))
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: the body was written."""


def _nothing() -> None:
    """Stands in once the connection's end was told."""
