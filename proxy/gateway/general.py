"""aiohttp's side of a client connection: one subclass of its protocol, by public overrides only.

It receives a connection from the front protocol with the first head's octets. What is ours here: ``Incoming`` goes on
following the input, so that every head meets the same rules; the deadline for each further head; replies to what is
refused (aiohttp's own echo the input and log tracebacks); and word of the connection's end.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from proxy.clock import SystemClock
from proxy.errors import Problem, Refusal
from proxy.gateway.access import Peer
from proxy.gateway.admission import Place
from proxy.gateway.front import whole_reply
from proxy.gateway.handler import Handler
from proxy.gateway.incoming import Incoming
from proxy.gateway.lingering import HALF_CLOSED_S, IDLE_S, MAX_OCTETS, TOTAL_S, Lingering
from proxy.gateway.problem import Reply
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.relay import ClientStream
from proxy.gateway.request_wire import RequestWire
from proxy.gateway.settings import Limits
from proxy.http1.fields import persists
from proxy.http1.wire import RequestHead
from proxy.transports import abort
from proxy.units import KIB

_CLOCK = SystemClock()
_READ_BUFFER = 64 * KIB  # octets held of a request body before the client is paused


class GeneralServer(web.Server):
    """Makes aiohttp's part of connections and knows which of them are serving a request."""

    def __init__(self, handler: Handler, *, limits: Limits, refusals: RefusalRecorder) -> None:
        super().__init__(self._serve, request_factory=self._begin, handler_cancellation=True)
        self._handler = handler
        self._limits = limits
        self._refusals = refusals
        self._event_loop = asyncio.get_running_loop()

    def take(self, transport: asyncio.Transport, data: bytes, incoming: Incoming, place: Place) -> None:
        """Takes a connection over for good, with the octets that may go on so far."""
        limits = self._limits
        connection = ClientConnection(
            self,
            loop=self._event_loop,
            incoming=incoming,
            place=place,
            refusals=self._refusals,
            head_timeout_s=limits.head_timeout_s,
            keepalive_timeout=limits.keepalive_timeout_s,
            access_log=None,
            # the bounds that count are those of `Incoming`; the parser's only have to let through what passed them
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=limits.field_count + 1,
            lingering_time=0,  # ours is `_linger`
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        )
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.first_received(data)

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
        protocol.request_begins(payload, writer)
        return web.BaseRequest(message, payload, protocol, writer, task, self._event_loop)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        head = _head(request)
        kept = persists(head.version, head.known)
        wire = RequestWire(request, connection.place)
        client = ClientStream(head, wire, self._handler.snapshot.limits, keep_alive=kept)
        secure = request.get_extra_info("sslcontext") is not None
        closes = True
        try:
            # the peer as it was when the connection was accepted; a reset one has none any more
            await self._handler.serve(client, peer=connection.peer, secure=secure)
            await connection.linger()
            closes = not (client.keep_alive and client.started)
            if closes:
                await connection.linger_on()
            return _Sent(keep_alive=not closes)
        finally:
            if connection.request_ends(closes=closes):
                await _CLOCK.sleep(0)  # aiohttp would answer all that is pipelined before anybody else has a turn


class ClientConnection(web.RequestHandler):
    """One client connection in aiohttp's hands."""

    __slots__ = (
        "_deadline", "_ended", "_event_loop", "_half_closed", "_head_timeout_s", "_incoming", "_lingering", "_patience",
        "_payload", "_refusals", "_told", "_writer", "place",
    )  # fmt: skip

    def __init__(
        self,
        server: GeneralServer,
        *,
        loop: asyncio.AbstractEventLoop,
        incoming: Incoming,
        place: Place,
        refusals: RefusalRecorder,
        head_timeout_s: float,
        **options: Any,
    ) -> None:
        super().__init__(server, loop=loop, **options)
        self.place = place
        self._event_loop = loop
        self._incoming = incoming
        self._refusals = refusals
        self._head_timeout_s = head_timeout_s
        self._payload: StreamReader | None = None  # of the request being served
        self._writer: AbstractStreamWriter | None = None  # of its answer
        self._half_closed = False  # the client sends no more
        self._patience: asyncio.TimerHandle | None = None  # with one that may have left
        self._ended = 0  # requests answered
        self._told = False  # a refusal was written: what still comes is read and dropped
        self._lingering: Lingering | None = None  # after an answer that came before the whole request did
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> Peer:
        """Returns who connected, as it was when the connection was accepted."""
        return self.place.peer

    @property
    def idle(self) -> bool:
        """Tells whether neither a request is served nor a head is under way."""
        return not self._unanswered and not self._incoming.head_under_way and not self._told

    @property
    def _unanswered(self) -> int:
        """How many requests were passed on and are not answered yet."""
        return self._incoming.heads - self._ended

    def request_begins(self, payload: StreamReader, writer: AbstractStreamWriter) -> None:
        """Notes that a request is being served."""
        self._payload, self._writer = payload, writer
        if self._incoming.fault_in_body and self._unanswered == 1:
            payload.set_exception(web.RequestPayloadError())

    def request_ends(self, *, closes: bool) -> bool:
        """Notes that a request was answered; what came behind it has its turn, unless the connection closes.

        Returns whether another one waits.
        """
        payload, self._payload = self._payload, None
        self._writer = None
        if payload is not None and self._incoming.fault_in_body:
            payload.feed_eof()  # aiohttp would read on for the rest of a body that has none
        self._ended += 1
        self._told = self._told or closes
        self._look_ahead()
        if self._half_closed:
            self._end_patience()
            if self._unanswered:
                self._patience = self._event_loop.call_later(HALF_CLOSED_S, self._presume_gone)
            else:
                self.close()
        return self._unanswered > 0

    async def linger(self) -> None:
        """Reads the rest of a body that was answered early, so that the answer is not lost to a reset."""
        payload, transport = self._payload, self.transport
        if payload is None or payload.is_eof() or transport is None or transport.is_closing():
            return
        now_s = self._event_loop.time()
        end_s, left = now_s + TOTAL_S, MAX_OCTETS
        with suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
            while not payload.is_eof() and left > 0 and now_s < end_s:
                async with asyncio.timeout(min(IDLE_S, end_s - now_s)):
                    left -= len(await payload.readany())
                now_s = self._event_loop.time()

    async def linger_on(self) -> None:
        """Behind the last answer: reads what else the client sends, if it has sent more than was answered."""
        transport, incoming = self.transport, self._incoming
        behind = incoming.beyond or incoming.head_under_way or incoming.fault is not None or self._unanswered > 1
        if not behind or self._told or self._half_closed or transport is None or transport.is_closing():
            return
        self._told = True  # what follows is dropped, and the client's end closes
        if transport.can_write_eof():
            transport.write_eof()
        with suppress(RuntimeError):  # uvloop: "the handler is closed" (uvloop#68, #506)
            transport.resume_reading()  # a pipelined body may have paused it
        over = asyncio.Event()
        self._lingering = Lingering(self._event_loop, over.set)
        await over.wait()

    def first_received(self, data: bytes) -> None:
        """Takes the octets that the front protocol has let through."""
        super().data_received(data)
        self._look_ahead()

    def data_received(self, data: bytes) -> None:
        """Lets through what is well-formed. Without data, aiohttp asks itself to go on."""
        if not data:
            super().data_received(data)
            return
        if self._told:
            if self._lingering is not None:
                self._lingering.heard(len(data))
            return
        passed = self._incoming.feed(data)
        if passed:
            super().data_received(passed)
        if self._incoming.fault_in_body and self._unanswered == 1 and self._payload is not None:
            self._payload.set_exception(web.RequestPayloadError())  # whoever reads the body answers 400
        self._look_ahead()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's closes, by returning None
        """Goes on answering a client that sends no more, if its requests are whole; a half-closed TLS does not exist.

        Who has left looks the same until something is written, so that an answer has to begin soon.
        """
        transport = self.transport
        if not self._unanswered or self._incoming.body_under_way or self._told or transport is None:
            return False
        if transport.get_extra_info("sslcontext") is not None:
            return False
        self._half_closed = True
        if self._patience is None:
            self._patience = self._event_loop.call_later(HALF_CLOSED_S, self._presume_gone)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tells whoever counts connections."""
        self._end_deadline()
        self._end_patience()
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)
        self.place.leave()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's text quotes the client's octets
    ) -> web.StreamResponse:
        """Answers what aiohttp's parser refuses though we passed it: fixed text, and the connection closes."""
        if status < 500:
            self._ended += 1  # no handler saw it
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        self._told = True
        if isinstance(exc, BadHttpMethod):
            problem = Problem.NOT_IMPLEMENTED
        else:
            problem = Problem.BAD_REQUEST if status < 500 else Problem.INTERNAL
        return _Refused(self._refusals.reply(Refusal(problem), self.peer))

    def _look_ahead(self) -> None:
        """While nothing is being served: refuses a fault, and starts or ends the deadline of a further head."""
        if self._unanswered or self._told:
            self._end_deadline()
        elif self._incoming.fault_in_body:
            self._told = True  # by the answer to the request whose body it was
        elif self._incoming.fault is not None:
            self._refuse(self._incoming.fault)
        elif not self._incoming.head_under_way:
            self._end_deadline()
        elif self._deadline is None:
            self._deadline = self._event_loop.call_later(self._head_timeout_s, self._late)

    def _presume_gone(self) -> None:
        """Ends what is done for a client of which nothing was heard since it half-closed, unless it is being answered."""
        self._patience = None
        if self.transport is not None and (self._writer is None or not self._writer.output_size):
            abort(self.transport)

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._refuse(Refusal(Problem.REQUEST_TIMEOUT))

    def _refuse(self, refusal: Refusal) -> None:
        """Answers and closes, but reads on for a while: a close with unread input would reset the answer away."""
        self._end_deadline()
        if self.transport is None or self.transport.is_closing():
            return
        self._told = True
        self.transport.write(whole_reply(self._refusals.reply(refusal, self.peer)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lingering = Lingering(self._event_loop, self.force_close)


class _Sent(web.StreamResponse):
    """Tells aiohttp that an answer is already on the wire, and whether the connection may serve another request."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Does nothing: the head was written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: the body was written."""


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


def _head(request: web.BaseRequest) -> RequestHead:
    return RequestHead(
        method=request.method.encode("latin-1"),
        target=request.raw_path.encode("utf-8", "surrogateescape"),
        version=(request.version.major, request.version.minor),
        fields=tuple((name, value.strip(b" \t")) for name, value in request.raw_headers),
    )
