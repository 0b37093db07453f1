"""A client connection that asks for another protocol with its first request: kept here, never given to aiohttp.

aiohttp's parser knows only ``websocket`` and keeps the first octets of what follows to itself. The request has the same
story as any other (``handler``); if the upstream grants it, the transport goes to a ``Tunnel``, and otherwise the answer
is the connection's last: what was sent behind the request was meant for the other protocol.

Source: RFC 9110 §7.8, RFC 9112 §9.6 (closing without losing the answer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.gateway.admission import Place
from proxy.gateway.handler import Handler
from proxy.gateway.lingering import HALF_CLOSED_S, Lingering
from proxy.gateway.link import ClientLink
from proxy.gateway.relay import ClientStream
from proxy.gathering import Turn
from proxy.http1.wire import RequestHead
from proxy.tasks import Tasks
from proxy.transports import abort
from proxy.units import KIB

_MAX_EARLY = 64 * KIB  # octets kept of what comes before the answer; beyond, the client is paused


class Upgrades:
    """Serves requests for another protocol, each on a connection of its own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks = Tasks()
        self.connections: set[UpgradeConnection] = set()

    def take(self, transport: asyncio.Transport, early: bytes, head: RequestHead, place: Place) -> None:
        """Takes a connection over for good, with its request and what came behind that."""
        connection = UpgradeConnection(transport, early, place, lost=self.connections.discard)
        self.connections.add(connection)
        transport.set_protocol(connection)
        connection.serving = self._tasks.start(self._serve(connection, head), name="upgrade")

    async def stop(self) -> None:
        """Ends what is left. The requests were ended before, by whoever counts them."""
        await self._tasks.stop()
        for connection in tuple(self.connections):
            connection.cut()

    async def _serve(self, connection: UpgradeConnection, head: RequestHead) -> None:
        client = ClientStream(head, connection, self._handler.snapshot.limits, keep_alive=False, switched=connection)
        try:
            await self._handler.serve(client, peer=connection.peer, secure=connection.secure)
        finally:
            connection.leave()


class UpgradeConnection(ClientLink):
    """The connection until it is a tunnel, or closed. A ``Wire`` for the request, ``Switched`` for the tunnel."""

    def __init__(
        self,
        transport: asyncio.Transport,
        early: bytes,
        place: Place,
        *,
        lost: Callable[[UpgradeConnection], None],
    ) -> None:
        super().__init__(transport, place, Turn(), asyncio.get_running_loop())
        self._early = bytearray(early)
        self._lost = lost
        self._given_away = False
        self._begun = False  # an answer was
        self._ended = False  # the client sends no more
        self._patience: asyncio.TimerHandle | None = None  # with such a client
        self._lingering: Lingering | None = None  # after the answer
        self.secure = transport.get_extra_info("sslcontext") is not None
        self.serving: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the client does not take it. Raises ConnectionError if it is gone."""
        self._begun = True
        self._end_patience()
        await super().write(data)

    # ---- the tunnel's side

    def give_away(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, None]:
        """Lets the tunnel have the transport; returns it, and what came behind the request."""
        assert self.transport is not None, "its loss cancels the request"
        self._given_away = True
        self.transport.set_protocol(protocol)
        if self._ended:
            self._loop.call_soon(protocol.eof_received)  # as if it came now
        early, self._early = bytes(self._early), bytearray()
        return self.transport, early, None

    # ---- the end

    def leave(self) -> None:
        """Closes behind the answer, but reads on for a while: a close with unread input would reset the answer away."""
        transport = self.transport
        if transport is None or self._given_away or transport.is_closing():
            return
        self._early.clear()
        if self._ended:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._lingering = Lingering(self._loop, transport.close)

    def cut(self) -> None:
        """Closes at once."""
        if self.transport is not None:
            abort(self.transport)

    # ---- asyncio's calls

    def data_received(self, data: bytes) -> None:
        """Keeps what comes for the tunnel, within a bound."""
        if self._lingering is not None:
            self._lingering.heard(len(data))
            return
        self._early += data
        if len(self._early) > _MAX_EARLY and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Goes on serving a client that sends no more: the tunnel may be all that it waits for. TLS has no halves.

        Who has left looks the same until something is written, so that an answer has to begin soon; and who ends after
        the answer has read it.
        """
        if self._lingering is not None or self.secure:
            return False
        self._ended = True
        if self._patience is None and not self._begun:
            self._patience = self._loop.call_later(HALF_CLOSED_S, self.cut)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Ends the request, if it is still served on this connection, and tells who counts connections."""
        self.transport = None
        if self._lingering is not None:
            self._lingering.cancel()
        self._end_patience()
        self._wake_all()
        if self.serving is not None and not self._given_away:
            self.serving.cancel()
        self._lost(self)
        self._place.leave()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
