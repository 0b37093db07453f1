"""A tunnel: what a client and an upstream say to each other once both have switched to another protocol.

Octets go on as they come, uninterpreted, by callbacks from one transport to the other. Each side holds the other back
when it does not read; each may end its half and still receive, but under TLS, which has no halves here. An end that is
none (a reset, a cut) is passed on as a reset, never as an orderly end.

Source: RFC 9110 §7.8 (after 101), RFC 9293 §3.6 (half-closed connections).
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

from proxy.clock import Clock
from proxy.errors import ErrorType, GatewayError, Side
from proxy.transports import ended_cleanly, remains, reset
from proxy.units import MILLISECONDS, SECONDS

_STEP_S = 20 * MILLISECONDS  # between two looks at what is still to be sent when the tunnel is over
_LINGER_S = 2 * SECONDS  # for a side whose other side is gone: to read what was sent, and to close


class Switched(Protocol):
    """A connection that has switched to another protocol than HTTP."""

    def give_away(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, socket.socket | None]:
        """Lets another protocol have the transport; returns it, the octets that have come already, and the socket.

        None if the socket is not ours to read when the transport has let go of it.
        """

    def connection_lost(self, exc: Exception | None) -> None:
        """Is told when the transport has closed."""


class Tunnel:
    """Carries octets both ways until both sides have ended. For one use."""

    def __init__(self, client: Switched, upstream: Switched, *, clock: Clock, idle_s: float, patience_s: float) -> None:
        """`idle_s` bounds the time without an octet either way; `patience_s` that in which a side takes no last octet."""
        self._clock = clock
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[GatewayError | None] = self._loop.create_future()
        self._heard_s = self._loop.time()  # when the last octet came
        self._timer: asyncio.TimerHandle | None = None
        self.client = End(self, client, Side.CLIENT)
        self.upstream = End(self, upstream, Side.UPSTREAM)
        self.client.other, self.upstream.other = self.upstream, self.client

    async def run(self) -> None:
        """Returns when both sides have ended and have what was sent to them.

        Raises GatewayError for any other end; then, and when cancelled, both sides are reset.
        """
        ends = (self.client, self.upstream)
        try:
            self._look()
            early = [end.take() for end in ends]
            for end, data in zip(ends, early, strict=True):
                end.begin(data)
            await self._end()
            await self._part(ends)
        except BaseException:
            for end in ends:
                end.reset()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
        for end in ends:
            end.close()

    def heard(self) -> None:
        """Notes that octets came."""
        self._heard_s = self._loop.time()

    def over(self, error: GatewayError | None) -> None:
        """Ends the tunnel, in order or with an error; the first call counts."""
        if not self._over.done():
            self._over.set_result(error)

    async def _end(self) -> None:
        """Waits for the tunnel's end. Raises the GatewayError that it ended with."""
        if (error := await self._over) is not None:
            raise error

    def _look(self) -> None:
        """Looks whether the tunnel stood still for too long; one timer, however much goes through."""
        left_s = self._heard_s + self._idle_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self.over(GatewayError(ErrorType.CONNECTION_READ_TIMEOUT, Side.GATEWAY, "the tunnel stood still"))

    async def _part(self, ends: tuple[End, End]) -> None:
        """Waits while either side still takes what was sent to it. Raises GatewayError if one takes no more."""
        for end in ends:
            end.part()
        unsent = sum(end.unsent for end in ends)
        still_s = 0.0
        while not all(end.parted for end in ends):
            if still_s >= (self._patience_s if unsent else _LINGER_S):
                if not unsent:
                    return
                raise GatewayError(ErrorType.CONNECTION_WRITE_TIMEOUT, Side.GATEWAY, "a side reads no more")
            await self._clock.sleep(_STEP_S)
            before, unsent = unsent, sum(end.unsent for end in ends)
            still_s = still_s + _STEP_S if unsent >= before else 0.0


class End(asyncio.Protocol):
    """One side of a tunnel."""

    def __init__(self, tunnel: Tunnel, connection: Switched, side: Side) -> None:
        self._tunnel = tunnel
        self._connection = connection
        self._side = side
        self._transport: asyncio.Transport | None = None  # None before `take` and when it is gone
        self._socket: socket.socket | None = None
        self._paused = False  # its reading
        self.ended = False  # it sends no more
        self._dropping = False  # nobody is left to receive from it
        self.other: End
        self.octets = 0  # received from it

    @property
    def unsent(self) -> int:
        """Returns how many octets written to this side were not taken by the system yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def parted(self) -> bool:
        """Tells whether this side has all that was sent to it, and has ended: under TLS, closing asks it to."""
        if self._transport is None:
            return True
        return not self.unsent and (self.ended or not self._transport.can_write_eof())

    def take(self) -> bytes:
        """Takes the transport over; returns what has come on it already."""
        self._transport, early, self._socket = self._connection.give_away(self)
        return early

    def begin(self, early: bytes) -> None:
        """Passes on what has come, and reads on."""
        if early:
            self.data_received(early)
        if self._transport is not None and not self._paused:
            with suppress(RuntimeError):  # of a transport that is closing
                self._transport.resume_reading()

    # ---- asyncio's calls

    def data_received(self, data: bytes) -> None:
        """Passes octets on."""
        if self._dropping:
            return
        self._tunnel.heard()
        self.octets += len(data)
        self.other.write(data)

    def eof_received(self) -> bool:
        """Passes the end of this half on; where there are no halves, the tunnel is over."""
        if self._transport is None or self.ended:
            return True
        if not ended_cleanly(self._transport):
            self._tunnel.over(self._broken())
            return False
        self.ended = True
        if not self._dropping and (not self.other.end_writing() or self.other.ended):
            self._tunnel.over(None)
        return self._transport.can_write_eof()  # False closes

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the tunnel; in order only if this side had ended before.

        One that has ended and closed resets what is still sent to it. What it said before is whole, and no reset of ours
        may take it away from the other side: a WebSocket's close code, say.
        """
        self._salvage()
        self._transport = None
        self._tunnel.over(None if self.ended else self._broken())
        self._connection.connection_lost(exc)

    def _salvage(self) -> None:
        """Passes on what had arrived when the connection broke: its reset may have met our writing first."""
        transport, connected = self._transport, self._socket
        if self.ended or transport is None or connected is None:
            return
        for data in remains(transport, connected):
            if data:
                self.data_received(data)
            else:  # by close_notify; without TLS it may as well follow a reset, so it proves nothing
                self.ended = transport.get_extra_info("ssl_object") is not None

    def pause_writing(self) -> None:
        """Holds the other side back."""
        self.other.hold()

    def resume_writing(self) -> None:
        """Lets the other side go on."""
        self.other.go_on()

    # ---- the other side's and the tunnel's calls

    def write(self, data: bytes) -> None:
        """Sends octets to this side."""
        if self._transport is not None:
            with suppress(RuntimeError):  # uvloop: "the handler is closed" (uvloop#68, #506); its loss is told apart
                self._transport.write(data)

    def end_writing(self) -> bool:
        """Ends the half towards this side, behind what was sent. Returns False where there are no halves: TLS."""
        if self._transport is None or not self._transport.can_write_eof():
            return False
        with suppress(RuntimeError, OSError):  # of a transport that is being lost
            self._transport.write_eof()
        return True

    def hold(self) -> None:
        """Stops reading."""
        if not self._paused and not self.ended and self._transport is not None:
            self._paused = True
            with suppress(RuntimeError):
                self._transport.pause_reading()

    def go_on(self) -> None:
        """Reads again. After an end there is nothing to read: asyncio would report the end once more."""
        if self._paused:
            self._paused = False
            if not self.ended and self._transport is not None:
                with suppress(RuntimeError):
                    self._transport.resume_reading()

    def part(self) -> None:
        """Ends the half towards this side; what it still sends is for nobody."""
        self._dropping = True
        self.end_writing()
        self.go_on()

    def close(self) -> None:
        """Closes, under TLS with a goodbye."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Closes at once, and not in order."""
        if self._transport is not None:
            reset(self._transport)

    def _broken(self) -> GatewayError:
        return GatewayError(ErrorType.CONNECTION_TERMINATED, self._side, f"the {self._side} broke off the tunnel")
