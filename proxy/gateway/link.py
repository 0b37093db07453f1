"""A client's connection in the gateway's own hands: flow control both ways, and a ``Wire`` for the handler.

What is done with the octets is for who derives from it to say.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import cast

from proxy.gateway.access import Peer
from proxy.gateway.admission import Place
from proxy.gathering import GatheredTransport, Turn
from proxy.units import KIB

MAX_AHEAD = 64 * KIB  # octets kept of what comes before its turn; beyond, the client is paused


class ClientLink(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_left", "_loop", "_out", "_place", "_queue", "_readable", "_reading_paused", "_still_s", "_untaken_before", "_unwritable",
        "_writable", "transport",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, place: Place, turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = transport  # None once it is gone, or somebody else's
        self._out = GatheredTransport(transport, turn)
        self._place = place
        self._loop = loop
        self._left = 0  # octets of the present request's body that have not come
        self._queue = bytearray()  # of that body: come, and not read
        self._unwritable = False
        self._reading_paused = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._untaken_before: int | None = None  # what the client had not taken at the last look
        self._still_s = 0.0  # since it took something

    @property
    def peer(self) -> Peer:
        """Who connected."""
        return self._place.peer

    @property
    def unwritable(self) -> bool:
        """Tells whether the client does not take what was written."""
        return self._unwritable

    @property
    def body_left(self) -> int:
        """How many octets of the present request's body have not come."""
        return self._left

    @property
    def body_complete(self) -> bool:
        """Tells whether the whole request body was read."""
        return not self._left and not self._queue

    def read_nowait(self) -> bytes:
        """Returns what has come of the request body."""
        data = bytes(self._queue)
        if data:
            self._queue.clear()
            self.resume_client()
        return data

    async def read(self) -> bytes:
        """Returns the next octets of the request body, b"" at its end. Raises ConnectionError if the client is gone."""
        while not self._queue and self._left:
            if self.transport is None:
                raise ConnectionResetError
            self._readable = self._loop.create_future()
            await self._readable
        return self.read_nowait()

    async def write(self, data: bytes) -> None:
        """Writes, and waits while the client does not take it. Raises ConnectionError if it is gone."""
        if self.transport is None:
            raise ConnectionResetError
        try:
            self._out.write_now(data)
        except RuntimeError as error:  # uvloop: "the handler is closed" (uvloop#68, #506)
            raise ConnectionResetError from error
        if self._unwritable:
            self._writable = self._loop.create_future()
            await self._writable
        if self.transport is None:
            raise ConnectionResetError

    def untaken(self) -> int:
        """Returns how many octets were written that the client's side has not taken yet, the system's included."""
        return len(self._out.held) + self._place.untaken(self.transport)

    def bare_socket(self) -> socket.socket | None:
        """Returns the socket, if what is written goes out as it is, and nothing waits for that."""
        transport = self.transport
        if transport is None or self._unwritable or self._out.is_closing() or self._out.get_write_buffer_size():
            return None
        under_tls = transport.get_extra_info("sslcontext") is not None
        return None if under_tls else cast("socket.socket", transport.get_extra_info("socket"))

    def takes_nothing(self, passed_s: float, idle_s: float) -> bool:
        """Tells whether the client has taken nothing for so long, 0 = as long as it likes; to be asked at each look."""
        before, self._untaken_before = self._untaken_before, self.untaken()
        if before is None or self._untaken_before < before:
            self._still_s = 0.0
            return False
        self._still_s += passed_s
        return bool(idle_s) and self._still_s >= idle_s

    def pause_writing(self) -> None:
        """Holds `write` back."""
        self._unwritable = True

    def resume_writing(self) -> None:
        """Lets `write` go on."""
        self._unwritable = False
        self._untaken_before = None
        _wake(self._writable)

    def _keep(self, body: bytes) -> None:
        """Keeps octets of the body for `read`."""
        self._queue += body
        if len(self._queue) > MAX_AHEAD:
            self.pause_client()
        _wake(self._readable)

    def _wake_all(self) -> None:
        """Lets who waits see that the transport is gone."""
        _wake(self._readable)
        _wake(self._writable)

    def send(self, data: bytes) -> None:
        """Writes octets, as far as the client is still there: small ones at the end of the event loop's turn."""
        if self.transport is not None and not self._out.is_closing():
            self._out.write(data)

    def close(self) -> None:
        """Closes behind what was sent, at once: who may still read a request must not begin to serve it. Idempotent."""
        self._out.released().close()

    def pause_client(self) -> None:
        """Stops reading. Idempotent."""
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            with suppress(RuntimeError):  # uvloop: "the handler is closed" (uvloop#68, #506)
                self.transport.pause_reading()

    def resume_client(self) -> None:
        """Reads again. Idempotent."""
        if self._reading_paused:
            self._reading_paused = False
            if self.transport is not None and not self.transport.is_closing():
                with suppress(RuntimeError):
                    self.transport.resume_reading()


def _wake(event: asyncio.Future[None] | None) -> None:
    if event is not None and not event.done():
        event.set_result(None)
