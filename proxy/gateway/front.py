"""The front protocol: reads a head that the direct path does not serve, and decides who serves the connection from there.

It owns that head's deadline, and refuses with replies of our own what ``Incoming`` finds malformed, as well as one
connection too many. With a good head it hands the connection over for good, together with the transport: to aiohttp
(``general``) or to ``upgrade``. It gets a connection from the direct path, or by itself from accept on where there is
none; the connection has its place then, or it asks for one. No answer is being written at either change, the write
buffer is empty and reading is not paused, which both event loops need for a change of protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import http_date
from proxy.errors import GatewayError, Problem, Refusal
from proxy.gateway.access import Peer
from proxy.gateway.admission import Admission, Place
from proxy.gateway.incoming import Incoming
from proxy.gateway.lingering import IDLE_S, Lingering
from proxy.gateway.problem import Reply
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.settings import Limits
from proxy.http1.wire import RequestHead, response_head
from proxy.transports import abort

_MAX_TURNED_AWAY = 256  # that are being told so; more are closed without a word


@dataclass(frozen=True, slots=True)
class Takers:
    """Who may take a connection over; each gets its transport and its place, which it leaves when it has closed."""

    general: Callable[[asyncio.Transport, bytes, Incoming, Place], None]
    """Serves requests of any kind: gets the first octets and the follower of the input."""
    upgrade: Callable[[asyncio.Transport, bytes, RequestHead, Place], None]
    """Serves a request for another protocol: gets its head, and the octets behind it."""


class FrontProtocol(asyncio.Protocol):
    """One client connection until the head is complete that decides who serves it."""

    def __init__(
        self,
        *,
        unix: bool,
        takers: Takers,
        admission: Admission,
        waiting: set[FrontProtocol],
        turned_away: set[FrontProtocol],
        limits: Limits,
        refusals: RefusalRecorder,
        loop: asyncio.AbstractEventLoop,
        place: Place | None = None,
    ) -> None:
        self._unix = unix
        self._takers = takers
        self._admission = admission
        self._waiting = waiting
        self._turned_away = turned_away
        self._limits = limits
        self._refusals = refusals
        self._loop = loop
        self._incoming = Incoming(limits)
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None if place is None else place.peer
        self._place = place
        self._lingering: Lingering | None = None  # after a refusal
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def head_under_way(self) -> bool:
        """Tells whether a part of a request head has come."""
        return self._incoming.head_under_way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection and starts the head's deadline."""
        link: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's do not derive from asyncio's
        self._transport = link
        if self._place is None:
            self._peer = peer_of(link, unix=self._unix)
            if self._peer is None:
                abort(link)
                return
            self._place = self._admission.enter(self._peer, link)
        if self._place is None:
            self._turn_away()
            return
        self._waiting.add(self)
        self._deadline = self._loop.call_later(self._limits.head_timeout_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Collects the first head; hands over when it is whole and well-formed."""
        if self._lingering is not None:
            self._lingering.heard(len(data))
            return
        transport, place = self._transport, self._place
        if transport is None or place is None or transport.is_closing():
            return
        incoming = self._incoming
        passed = incoming.feed(data)
        if incoming.heads:
            self._end_waiting()
            self._transport = None
            if incoming.upgrade is not None:
                self._takers.upgrade(transport, passed, incoming.upgrade, place)
            else:
                self._takers.general(transport, passed, incoming, place)
        elif incoming.fault is not None:
            self._refuse(incoming.fault)

    def eof_received(self) -> bool:
        """Closes: without a whole head there is nothing to answer, and who was refused has read the answer."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Counts the connection out."""
        self._end_waiting()
        self._turned_away.discard(self)
        if self._lingering is not None:
            self._lingering.cancel()
        if self._transport is not None and self._place is not None:
            self._place.leave()
        self._transport = None

    def drain(self) -> None:
        """Closes a connection on which nothing has come."""
        if not self.head_under_way and self._lingering is None:
            self._close()

    def end(self, error: GatewayError | None) -> None:
        """Ends a connection that was served: with an answer, or behind the last one."""
        if error is not None:
            self._refuse(error)
            return
        self._end_waiting()
        self._linger()

    def cut(self) -> None:
        """Ends a connection whose head is still under way: 503 `draining`."""
        if self._lingering is None:
            self._refuse(Refusal(Problem.DRAINING, retry_after_s=1.0))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end_waiting(self) -> None:
        self._waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.head_under_way:
            self._refuse(Refusal(Problem.REQUEST_TIMEOUT))
        else:
            self._close()  # opened in advance and never used: nothing to answer

    def _turn_away(self) -> None:
        """Answers 503 to one connection too many. It has no place, so it may not stay: no octet makes it longer."""
        assert self._transport is not None
        if len(self._turned_away) >= _MAX_TURNED_AWAY:
            self._refusals.reply(Refusal(Problem.OVERLOADED), self._peer)
            abort(self._transport)
            return
        self._turned_away.add(self)
        self._refuse(Refusal(Problem.OVERLOADED, retry_after_s=1.0))
        self._deadline = self._loop.call_later(IDLE_S, abort, self._transport)

    def _refuse(self, refusal: GatewayError) -> None:
        """Answers and closes, but reads on for a while: a close with unread input would reset the answer away."""
        transport = self._transport
        assert transport is not None
        self._end_waiting()
        transport.write(whole_reply(self._refusals.reply(refusal, self._peer)))
        self._linger()

    def _linger(self) -> None:
        assert self._transport is not None
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._lingering = Lingering(self._loop, self._close)


class Reception(asyncio.Protocol):
    """Receives connections that go to the direct path with their first octet; one object for all, it keeps none."""

    def __init__(
        self,
        *,
        unix: bool,
        admission: Admission,
        take: Callable[[asyncio.Transport, bytes, Place], None],
        turn_away: Callable[[asyncio.Transport], None],
    ) -> None:
        self._unix = unix
        self._admission = admission
        self._take = take
        self._turn_away = turn_away

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection and passes it on."""
        link: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's do not derive from asyncio's
        peer = peer_of(link, unix=self._unix)
        if peer is None:
            abort(link)
            return
        place = self._admission.enter(peer, link)
        if place is None:
            self._turn_away(link)
        else:
            self._take(link, b"", place)


def peer_of(transport: asyncio.Transport, *, unix: bool) -> Peer | None:
    """Returns who connected, None for a connection that was reset before it was accepted.

    uvloop then knows no peer, and without one no access rule could be applied.
    """
    if unix:
        return Peer(None)
    peername = transport.get_extra_info("peername")
    return Peer.from_peername(peername) if peername else None


def whole_reply(reply: Reply) -> bytes:
    """Returns the octets of a reply that ends its connection."""
    fields = (
        *reply.fields,
        (b"Content-Length", b"%d" % len(reply.body)),
        (b"Date", http_date()),
        (b"Connection", b"close"),
    )
    return response_head(reply.status, reply.reason, fields) + reply.body
