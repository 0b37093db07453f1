"""TLS towards clients: one connection from accept to the end of its handshake, then as any other's.

The connection is accepted in plain and counted before the first octet of TLS, so that one which never says ClientHello
takes a place like any other, and only for as long as a head may take. What fails here gets no HTTP answer: there is
nobody yet who could read one.

Source: RFC 8446, RFC 9325; https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.start_tls
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import cast

from proxy.errors import Problem, Refusal
from proxy.gateway.admission import Admission, Place
from proxy.gateway.front import peer_of
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.settings import Limits
from proxy.log import RateLimited
from proxy.tasks import Tasks
from proxy.units import SECONDS

_FAIR_S = 1 * SECONDS  # for a handshake under way when the gateway is told to stop


class Handshake(asyncio.Protocol):
    """A connection that is not secured yet."""

    def __init__(
        self,
        *,
        unix: bool,
        context: Callable[[], ssl.SSLContext],
        take: Callable[[asyncio.Transport, bytes, Place], None],
        admission: Admission,
        under_way: set[Handshake],
        limits: Limits,
        refusals: RefusalRecorder,
        failures: RateLimited,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._unix = unix
        self._context = context
        self._take = take
        self._admission = admission
        self._under_way = under_way
        self._limits = limits
        self._refusals = refusals
        self._failures = failures
        self._tasks = tasks
        self._loop = loop
        self._early: list[bytes] = []  # what came before we had our turn: in plain before TLS begins, secured after it
        self._wire: asyncio.Transport | None = None
        self._since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection and starts its handshake."""
        wire: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's do not derive from asyncio's
        peer = peer_of(wire, unix=self._unix)
        if peer is None:
            wire.abort()
            return
        place = self._admission.enter(peer, wire)
        if place is None:
            self._refusals.reply(Refusal(Problem.OVERLOADED), peer)  # counted and logged; it cannot be said in plain
            wire.abort()
            return
        wire.pause_reading()  # uvloop reads on nevertheless
        self._wire = wire
        self._since_s = self._loop.time()
        self._under_way.add(self)
        self._tasks.start(self._shake(wire, place), name="TLS handshake")

    def data_received(self, data: bytes) -> None:
        """Keeps what the client sent before its handshake began, or right behind it."""
        self._early.append(data)

    def drain(self) -> None:
        """Ends a handshake that has had its time; one that has just begun is let finish."""
        if self._wire is not None and self._loop.time() - self._since_s >= _FAIR_S:
            self._wire.abort()

    def cut(self) -> None:
        """Ends the handshake."""
        if self._wire is not None:
            self._wire.abort()

    def _give_hello(self, wire: asyncio.Transport) -> None:
        """Gives TLS what was read in plain, in the way in which a transport gives it."""
        hello = b"".join(self._early)
        self._early.clear()
        tls = cast("asyncio.BufferedProtocol", wire.get_protocol())  # uvloop's does not derive from asyncio's
        while hello:
            buffer = memoryview(tls.get_buffer(len(hello)))
            part = hello[: len(buffer)]
            buffer[: len(part)] = part
            tls.buffer_updated(len(part))
            hello = hello[len(part) :]

    async def _shake(self, wire: asyncio.Transport, place: Place) -> None:
        secured = None
        self._loop.call_soon(self._give_hello, wire)  # runs when `start_tls` has taken over and reads nothing yet
        try:
            secured = await self._loop.start_tls(
                wire,
                self,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=self._limits.head_timeout_s,
                # a client's goodbye is waited for, and what it reads slowly is written, for this long
                ssl_shutdown_timeout=self._limits.write_idle_timeout_s,
            )
        except OSError as error:  # ssl.SSLError and a timeout are
            self._tell(error, place)
        finally:
            self._under_way.discard(self)
            if secured is None or secured.is_closing():
                wire.abort()
                place.leave()
        if secured is not None and not secured.is_closing():
            self._take(secured, b"".join(self._early), place)

    def _tell(self, error: OSError, place: Place) -> None:
        """Logs a failed handshake: OpenSSL's word for the reason, nothing that the client chose."""
        if isinstance(error, ssl.SSLError):
            reason = error.reason or "failed"
        elif isinstance(error, ConnectionAbortedError):
            reason = "not over in time"
        else:
            return  # it went away, as probes do
        client = "unix" if place.peer.address is None else str(place.peer.address)
        self._failures.log(logging.INFO, "a client's TLS handshake failed", {"client": client, "reason": reason})
