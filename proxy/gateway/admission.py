"""How many client connections are open, in all and per client; each has a place, from accept to its very end.

A place is held until the system's socket is closed, not until somebody said `close`: what a client does not read keeps a
closing connection open, so such a one is looked at now and then, and ended when its client takes nothing any more.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from contextlib import suppress

from proxy.gateway.access import Peer
from proxy.gateway.settings import Limits


class Place:
    """One open connection's place."""

    __slots__ = ("_admission", "left_over", "peer", "wire")

    def __init__(self, admission: Admission, peer: Peer, wire: asyncio.Transport) -> None:
        self._admission: Admission | None = admission
        self.peer = peer
        self.wire = wire  # the socket's own transport; with TLS, others see the one above it
        self.left_over: int | None = None  # of what was written, at the last look while closing

    def leave(self) -> None:
        """Gives the place up. Idempotent."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.left(self)

    def untaken(self, transport: asyncio.Transport | None = None) -> int:
        """Returns how many octets were written that the client's side has not taken yet, the system's included.

        `transport` is what is written to, if it is not the wire itself. The system's buffer may hold megabytes and says
        nothing before a third of them has left; a client that reads them slowly would look like one that does not read.
        """
        buffered = self.wire.get_write_buffer_size()
        if transport is not None and transport is not self.wire:
            buffered += transport.get_write_buffer_size()
        with suppress(OSError, AttributeError):  # of a socket that is closed already
            descriptor = self.wire.get_extra_info("socket").fileno()
            queued = int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
            return queued + buffered
        return 0


class Admission:
    """Gives places, as many as the limits allow."""

    __slots__ = ("_limits", "_look", "_loop", "_none_open", "_per_client", "_places")

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._places: set[Place] = set()
        self._per_client: dict[bytes, int] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._look: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """Returns how many connections are open."""
        return len(self._places)

    def enter(self, peer: Peer, wire: asyncio.Transport) -> Place | None:
        """Returns a place for a connection, None if it would be one too many."""
        if self._limits.connections and len(self._places) >= self._limits.connections:
            return None
        if self._limits.connections_per_client and peer.address is not None:
            count = self._per_client.get(peer.key, 0)
            if count >= self._limits.connections_per_client:
                return None
            self._per_client[peer.key] = count + 1
        place = Place(self, peer, wire)
        self._places.add(place)
        self._none_open.clear()
        self._look_later()
        return place

    def left(self, place: Place) -> None:
        """Notes that a place was given up."""
        self._places.discard(place)
        if not self._places:
            self._none_open.set()
            if self._look is not None:
                self._look.cancel()
                self._look = None
        key = place.peer.key
        count = self._per_client.get(key)
        if count is not None:
            if count > 1:
                self._per_client[key] = count - 1
            else:
                del self._per_client[key]

    async def none_open(self) -> None:
        """Waits until every connection has closed."""
        await self._none_open.wait()

    def cut(self) -> None:
        """Ends every connection, with what is still to be written on it: uvloop would not close before that was taken."""
        for place in tuple(self._places):
            place.wire.abort()

    def _look_later(self) -> None:
        if self._look is None and self._limits.write_idle_timeout_s:
            self._look = self._loop.call_later(self._limits.write_idle_timeout_s / 2, self._look_at_closing)

    def _look_at_closing(self) -> None:
        """Ends the closing connections whose clients took nothing since the last look but one. O(open connections)."""
        self._look = None
        for place in tuple(self._places):
            if not place.wire.is_closing():
                continue
            left_over = place.untaken()
            if place.left_over is not None and left_over >= place.left_over:
                place.wire.abort()
            place.left_over = left_over
        if self._places:
            self._look_later()
