"""The front protocol: accepts a connection, bounds it, and reads its first request head.

It owns the connection caps, the first head's deadline, and refuses with replies of our own what ``Incoming`` finds
malformed. A good head is handed to aiohttp together with the transport, for good: no answer is being written then, the
write buffer is empty and reading is not paused, which both event loops need for a change of protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate

from proxy.errors import GatewayError, Problem, Refusal
from proxy.gateway.access import Peer
from proxy.gateway.incoming import Incoming
from proxy.gateway.problem import Reply
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.settings import Limits
from proxy.http1.wire import response_head
from proxy.transports import abort
from proxy.units import SECONDS

LINGER_S = 2 * SECONDS  # an early answer is given this long to be read before the connection closes

# transport, first octets, the follower of its input, its peer, and what to call when it has closed
HandOver = Callable[[asyncio.Transport, bytes, Incoming, Peer, Callable[[], None]], None]


class Admission:
    """How many connections are open, in all and per client address."""

    __slots__ = ("_limits", "_none_open", "_per_client", "open")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._per_client: dict[object, int] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self.open = 0

    def enter(self, peer: Peer) -> bool:
        """Counts a connection in, unless it would be one too many."""
        if self._limits.connections and self.open >= self._limits.connections:
            return False
        if self._limits.connections_per_client and peer.address is not None:
            count = self._per_client.get(peer.address, 0)
            if count >= self._limits.connections_per_client:
                return False
            self._per_client[peer.address] = count + 1
        self.open += 1
        self._none_open.clear()
        return True

    def leave(self, peer: Peer) -> None:
        """Counts a connection out."""
        self.open -= 1
        if not self.open:
            self._none_open.set()
        count = self._per_client.get(peer.address)
        if count is not None:
            if count > 1:
                self._per_client[peer.address] = count - 1
            else:
                del self._per_client[peer.address]

    async def none_open(self) -> None:
        """Waits until every connection has closed."""
        await self._none_open.wait()


class FrontProtocol(asyncio.Protocol):
    """One client connection until its first request head is complete."""

    def __init__(
        self,
        *,
        unix: bool,
        hand_over: HandOver,
        admission: Admission,
        waiting: set[FrontProtocol],
        limits: Limits,
        refusals: RefusalRecorder,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._unix = unix
        self._hand_over = hand_over
        self._admission = admission
        self._waiting = waiting
        self._limits = limits
        self._refusals = refusals
        self._loop = loop
        self._incoming = Incoming(limits)
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self._entered = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def head_under_way(self) -> bool:
        """Tells whether a part of a request head has come."""
        return self._incoming.head_under_way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection and starts the head's deadline."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not derive from asyncio's
        peername = transport.get_extra_info("peername")
        if not self._unix and not peername:
            # Reset before it was accepted: uvloop then knows no peer, and without one no access rule could be applied.
            self._close(at_once=True)
            return
        self._peer = Peer(None) if self._unix else Peer.from_peername(peername)
        self._entered = self._admission.enter(self._peer)
        if not self._entered:
            self._refuse(Refusal(Problem.OVERLOADED, retry_after_s=1.0))
            return
        self._waiting.add(self)
        self._deadline = self._loop.call_later(self._limits.head_timeout_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Collects the first head; hands over when it is whole and well-formed."""
        transport, peer = self._transport, self._peer
        if self._refused or transport is None or peer is None or transport.is_closing():
            return
        passed = self._incoming.feed(data)
        if self._incoming.heads:
            self._end_waiting()
            self._transport = None
            admission = self._admission
            self._hand_over(transport, passed, self._incoming, peer, lambda: admission.leave(peer))
        elif self._incoming.fault is not None:
            self._refuse(self._incoming.fault)

    def eof_received(self) -> bool:
        """Closes: without a whole head there is nothing to answer, and who was refused has read the answer."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Counts the connection out."""
        self._end_waiting()
        if self._entered and self._transport is not None and self._peer is not None:
            self._admission.leave(self._peer)
        self._transport = None

    def drain(self) -> None:
        """Closes a connection on which nothing has come."""
        if not self.head_under_way and not self._refused:
            self._close()

    def cut(self) -> None:
        """Ends a connection whose head is still under way: 503 `draining`."""
        if not self._refused:
            self._refuse(Refusal(Problem.DRAINING, retry_after_s=1.0))

    def _close(self, *, at_once: bool = False) -> None:
        if self._transport is not None:
            if at_once:
                abort(self._transport)
            else:
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

    def _refuse(self, refusal: GatewayError) -> None:
        """Answers and closes, but reads on for a while: a close with unread input would reset the answer away."""
        transport = self._transport
        assert transport is not None
        self._refused = True
        self._end_waiting()
        transport.write(whole_reply(self._refusals.reply(refusal, self._peer)))
        if transport.can_write_eof():
            transport.write_eof()
        self._deadline = self._loop.call_later(LINGER_S, self._close)


def whole_reply(reply: Reply) -> bytes:
    """Returns the octets of a reply that ends its connection."""
    fields = (
        *reply.fields,
        (b"Content-Length", b"%d" % len(reply.body)),
        (b"Date", formatdate(usegmt=True).encode("ascii")),
        (b"Connection", b"close"),
    )
    return response_head(reply.status, reply.reason, fields) + reply.body
