"""Plain requests, served by callbacks: no task, no future, no timer and no object of aiohttp's belongs to one.

An optimisation of the general path, and without rules of its own: ``decide`` says what is sent, ``rewrite`` and
``answer`` what comes back. Here is only the course that nearly every request takes: its token is in hand, a connection
to the upstream is idle or its turn comes (``opening``), the answer is passed on (``direct_exchange``). Whatever else
happens - a token to wait for, a 401, a failure, a reply of the gateway's own - goes on in ``Handler`` from where it
stands. The connection is here from its first octet until a request comes that is not plain; then the front protocol gets it.

Source: RFC 9112 §6 (framing), §9.3 (persistence, pipelining).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.errors import GatewayError, Problem, Refusal
from proxy.gateway import relay
from proxy.gateway.access import Visitor
from proxy.gateway.admission import Place
from proxy.gateway.begun import Begun
from proxy.gateway.decide import Admitted, Forward, again, decide
from proxy.gateway.direct_exchange import DirectExchange
from proxy.gateway.incoming import MAX_EMPTY_LINES
from proxy.gateway.lingering import HALF_CLOSED_S
from proxy.gateway.link import MAX_AHEAD, ClientLink
from proxy.gateway.opening import Opening
from proxy.gateway.phase import AT_WORK, EXCHANGE, GONE, OPENING, READING, RETURNING, STORY, Phase
from proxy.gateway.record import ClientGone, RequestRecord
from proxy.gateway.relay import ClientStream
from proxy.gateway.snapshot import Snapshot
from proxy.gateway.story import Story
from proxy.http1.fields import persists
from proxy.http1.framing import request_framing
from proxy.http1.wire import RequestHead, find_head_end, parse_request_head
from proxy.units import MILLISECONDS, SECONDS
from proxy.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from proxy.gateway.direct_server import DirectServer

_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
_HTTP_11 = (1, 1)
_LOOK_AGAIN_S = 5 * MILLISECONDS  # doubled for each further look, so that slow readers cost little
_LOOK_AGAIN_MAX_S = 1 * SECONDS


class DirectConnection(ClientLink):
    """One client connection whose requests have been plain so far."""

    __slots__ = (
        "_ahead", "_begun_s", "_empty", "_exchange", "_half_closed", "_head", "_opening", "_phase", "_quiet_s", "_record", "_secure", "_server",
        "_snapshot", "_stays", "_story", "_visitor", "_waited_s", "active",
    )  # fmt: skip

    def __init__(self, server: DirectServer, transport: asyncio.Transport, place: Place) -> None:
        super().__init__(transport, place, server.turn, server.loop)
        self._server = server
        self._secure = place.wire is not transport  # TLS is between them
        self._phase = READING
        self._exchange = DirectExchange(server.handler, self)
        self._opening: Opening | None = None  # made by the first request that finds no connection idle
        self._snapshot: Snapshot | None = None
        self._visitor: Visitor
        self._ahead = bytearray()  # what has come before its turn: a part of a head, or pipelined requests
        self._empty = 0  # octets of empty lines before the next head
        self._half_closed = False  # the client sends no more
        # of the request being served
        self._head: RequestHead
        self._record: RequestRecord
        self._stays = True  # the connection may serve another request
        self._story: Story | None = None  # while the request is in the handler's hands
        # for `look`; counted by it alone, so that a request reads no clock for it
        self.active = True  # something happened since the last look
        self._quiet_s = 0.0  # since something happened
        self._waited_s = 0.0  # for the body, in all
        self._begun_s = 0.0  # since the request, or a part of its head, has come

    @property
    def idle(self) -> bool:
        """Tells whether no request is under way, nor a part of one."""
        return self._phase is READING and not self._ahead

    @property
    def head_under_way(self) -> bool:
        """Tells whether a part of a request's head has come, or one that nobody serves yet."""
        return (self._phase is READING or self._phase is RETURNING) and bool(self._ahead)

    # ---- the client's octets

    def data_received(self, data: bytes) -> None:
        """Reads a request, or its body, or keeps what comes before its turn: that is no sign that anything goes on."""
        if self._left:
            self.active = True
            self._read_body(data)
        elif self._phase is READING and not self._reading_paused:
            self.active = True
            self._read_head(data)
        elif self._phase is not GONE:
            self._ahead += data
            if len(self._ahead) > MAX_AHEAD:
                self.pause_client()

    def _read_head(self, data: bytes) -> None:
        ahead, limits = self._ahead, self._server.limits
        while not ahead and self._empty < MAX_EMPTY_LINES and data.startswith(b"\r\n"):
            self._empty += 2
            data = data[2:]
        if not data:
            return
        if ahead:
            start = max(0, len(ahead) - 3)
            ahead += data
            end = find_head_end(ahead, start)
            if end < 0 and len(ahead) <= limits.head_bytes:
                return
            data = bytes(ahead)
            ahead.clear()
        else:
            end = find_head_end(data, 0)
            if end < 0 and len(data) <= limits.head_bytes:
                ahead += data
                if self._snapshot is not None:  # the first head's time runs from accept on
                    self._begun_s = 0.0
                if self._half_closed and self.transport is not None:
                    self.close()  # the rest of this head will not come
                return
        if not 0 < end <= limits.head_bytes or data[0] <= 0x0D:  # too large, or with too many empty lines before it
            self._return(b"\r\n" * (self._empty // 2) + data)
            return
        snapshot, octets = self._server.handler.snapshot, data if end == len(data) else data[:end]
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._visitor = snapshot.visitor(self.peer, secure=self._secure)
        known = snapshot.repeated.find((octets, self._visitor))
        if known is not None:
            self._serve(known.head, known.framing.length, data[end:], octets, known)
            return
        try:
            head = parse_request_head(octets, max_fields=limits.field_count)
            left = request_framing(_HTTP_11, head.known).length if b"content-length" in head.known else 0
        except GatewayError:
            self._return(data)  # who refuses it there, reads it the same way
            return
        if head.version == _HTTP_11 and _NOT_PLAIN.isdisjoint(head.known):  # framed by a length or not at all
            self._serve(head, left, data[end:], octets, None)
        else:
            self._return(data)

    def _serve(self, head: RequestHead, left: int, behind: bytes, octets: bytes, known: Admitted | None) -> None:
        """The request, from its head to the upstream; `behind` begins with its body; `known` was decided before."""
        snapshot, visitor = self._server.handler.snapshot, self._visitor
        self._head = head
        self._empty = 0
        record = self._record = self._server.handler.begin(head, visitor, snapshot)
        self._stays = persists(_HTTP_11, head.known) if known is None else known.persists
        self._begun_s = self._waited_s = 0.0
        body = b""
        if behind:
            body = behind[:left]
            self._ahead += behind[left:]
        self._left = left - len(body)
        if self._half_closed:
            self._loop.call_later(HALF_CLOSED_S, self._presume_gone, record)
        try:
            if known is not None:
                decision = again(known, record.request_id, record.started_s)
            else:
                decision = decide(head, visitor, record.request_id, snapshot, record.started_s)
                if decision.__class__ is Forward:
                    snapshot.repeated.admitted(octets, visitor, decision.admitted)
        except Exception as fault:  # noqa: BLE001  # as in the handler, which tells of it
            self._queue += body
            self.go_on(fault)
            return
        if decision.__class__ is Forward and not decision.admitted.binds_connection:
            upstream = self._exchange.begin(decision, record, length=left, stays=self._stays)
            self.dispatch(decision, body, upstream)
        else:
            self._queue += body
            self.go_on(Begun(decision))

    def dispatch(self, forward: Forward, body: bytes, upstream: UpstreamConnection | None) -> None:
        """Sends the request, with what has come of its body: on this connection, or when it has got one."""
        self.active = True  # the upstream's time begins
        if upstream is not None:
            self._phase = EXCHANGE
            self._exchange.start(upstream, body)
            return
        self._phase = OPENING
        self._queue += body
        if self._opening is None:
            self._opening = Opening(self, self._exchange, tasks=self._server.tasks, now=self._server.now)
        self._opening.begin(forward)

    def _read_body(self, data: bytes) -> None:
        """Passes octets of the request's body on, or keeps them for the handler."""
        left = self._left
        if len(data) > left:
            self._ahead += data[left:]
            data = data[:left]
        left = self._left = left - len(data)
        if self._phase is EXCHANGE:
            self._exchange.send(data, last=not left)
        else:
            self._keep(data)

    # ---- between requests

    def ended(self, *, stays: bool) -> None:
        """Reads the next request, or ends the connection."""
        self._phase = READING
        self._begun_s = 0.0
        self.active = True
        if self.transport is None:
            self._phase = GONE
        elif not stays or (self._half_closed and not self._ahead):
            self._leave()
        elif self._ahead:
            self.pause_client()
            self._loop.call_soon(self._read_ahead)  # so that everybody has a turn in a flood of requests
        else:
            self.resume_client()

    def _read_ahead(self) -> None:
        if self._phase is READING and self.transport is not None:
            data = bytes(self._ahead)
            self._ahead.clear()
            self.resume_client()
            self._read_head(data)

    def _leave(self) -> None:
        """Closes behind the last answer; while more may come, by reading on for a while (``Lingering``)."""
        if self._left or self._ahead:
            self._part()
            self._server.refuse(self._out.released(), self._place, None)
        else:
            self._phase = GONE
            self._out.close()

    def _return(self, data: bytes, again_s: float = _LOOK_AGAIN_S) -> None:
        """Gives the connection back, with a request that is not served here, as soon as the last answer is written.

        Both event loops need that for a change of protocol, and that reading is not paused.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._ahead[:0] = data
        self._out.flush()
        if transport.get_write_buffer_size():
            self._phase = RETURNING
            self.pause_client()
            self._loop.call_later(again_s, self._return_again, min(2 * again_s, _LOOK_AGAIN_MAX_S))
            return
        data = bytes(self._ahead)
        self._part()
        self._server.give_back(self._out.released(), self._place, data, self._half_closed)

    def _return_again(self, again_s: float) -> None:
        if self._phase is RETURNING:
            self._return(b"", again_s)

    def refuse(self, error: GatewayError) -> None:
        """Answers instead of the head under way, and ends the connection."""
        if self.transport is not None:
            self._part()
            self._server.refuse(self._out.released(), self._place, error)

    def _part(self) -> None:
        """Leaves the transport to another protocol."""
        self.resume_client()
        self._phase = GONE
        self.transport = None
        self._server.connections.discard(self)
        self._forget()

    # ---- a request in the handler's hands

    def go_on(self, begun: Begun | Exception) -> None:
        """Leaves the request to the handler, from where it stands, or with a fault of ours to tell of."""
        if self._phase is OPENING:
            self._stop_opening()
        self._phase = STORY
        client = ClientStream(self._head, self, self._server.limits, keep_alive=self._stays)
        self._story = Story(self._server, client, begun, record=self._record, so_far=self._exchange, over=self._told)
        if self._left:
            self.resume_client()  # an upstream that took nothing may have paused it

    def _told(self, stays: bool) -> None:  # noqa: FBT001
        self._story = None
        if self._phase is STORY:
            self.ended(stays=stays and self.body_complete)
        elif self.transport is None:
            self._forget()

    def cancel(self) -> None:
        """Ends what the handler does."""
        if self._story is not None:
            self._story.cancel()

    # ---- the connection's end, and what holds it up

    def eof_received(self) -> bool:
        """Lets a client that has sent all have its answers; else there is nothing more to wait for."""
        self._half_closed = True
        self._out.flush()  # before the event loop closes
        waited_for = self._phase in AT_WORK or (self._reading_paused and bool(self._ahead))
        if waited_for and self._phase is not RETURNING:
            self._loop.call_later(HALF_CLOSED_S, self._presume_gone, self._record)
        return waited_for and not self._left and not self._secure  # TLS knows no half of a connection

    def _presume_gone(self, record: RequestRecord) -> None:
        """Ends a request of a client of which nothing was heard since it half-closed, unless it is being answered."""
        answer = self._exchange if self._phase in {OPENING, EXCHANGE} else self._story
        if record is self._record and answer is not None and not answer.started and self.transport is not None:
            self._out.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Gives up what was under way for this client."""
        phase, self._phase = self._phase, GONE
        self.transport = None
        self._server.connections.discard(self)
        self._give_up_request(phase, ClientGone())
        self._place.leave()
        if self._story is None:
            self._forget()
        else:
            self._story.cancel()
            self._wake_all()

    def _forget(self) -> None:
        """Lets go of who knows this object: together they would wait for the garbage collector."""
        del self._exchange
        self._opening = None

    def pause_writing(self) -> None:
        """Holds the upstream back, whose answer the client does not take."""
        super().pause_writing()
        if self._phase is EXCHANGE:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """Lets the upstream go on."""
        super().resume_writing()
        self.active = True
        if self._phase is EXCHANGE:
            self._exchange.resume()

    def cut(self) -> None:
        """Closes at once, so that the client sees that its answer is not whole."""
        self._phase = GONE
        self._out.cut()

    # ---- deadlines

    def look(self, passed_s: float) -> None:
        """Ends what has lasted too long; so much time has passed since the last look."""
        if self.active:
            self.active = False
            self._quiet_s = 0.0
        else:
            self._quiet_s += passed_s
        age_s, self._begun_s = self._begun_s, self._begun_s + passed_s
        if self._phase in {OPENING, EXCHANGE}:
            self._exchange.look_at_age(age_s)
        limits, phase, transport = self._server.limits, self._phase, self.transport
        if transport is None:
            return
        if self._unwritable or phase is RETURNING:
            if phase is not STORY and self.takes_nothing(passed_s, limits.write_idle_timeout_s):
                self._give_up(relay.UNREAD)
            elif phase is EXCHANGE and self._exchange.lags(passed_s):
                self._give_up(relay.LAGGING)
        elif phase is EXCHANGE:
            if self._left and not self._reading_paused:
                self._waited_s += passed_s
            self._exchange.look(self._quiet_s, self._waited_s, limits, client_paused=self._reading_paused)
        elif phase is READING and self._ahead:
            if age_s >= limits.head_timeout_s:
                self.refuse(Refusal(Problem.REQUEST_TIMEOUT))
        elif phase is READING:
            unused = self._snapshot is None  # opened in advance
            if age_s >= limits.head_timeout_s if unused else self._quiet_s >= limits.keepalive_timeout_s:
                self.close()

    def _give_up(self, detail: str) -> None:
        self._give_up_request(self._phase, ClientGone(detail))
        self.cut()

    def _give_up_request(self, phase: Phase, gone: ClientGone) -> None:
        """Ends the request that is under way by callbacks, if there is one."""
        if phase is OPENING:
            self._stop_opening()
        if phase is EXCHANGE or phase is OPENING:
            self._exchange.lost(gone)

    def _stop_opening(self) -> None:
        assert self._opening is not None
        self._opening.end()
