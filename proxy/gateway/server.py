"""The gateway's listeners and its end: accepting, and draining in the order that loses no request.

Stopping: listeners close, idle connections close, requests and tunnels under way go on within the drain timeout;
aiohttp's own shutdown, which drops octets of uploads still in flight, comes only after that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from proxy.clock import Clock
from proxy.errors import ConfigurationError, GatewayError
from proxy.gateway.admission import Admission, Place
from proxy.gateway.direct_server import DirectServer
from proxy.gateway.front import FrontProtocol, Reception, Takers
from proxy.gateway.general import GeneralServer
from proxy.gateway.handler import Handler
from proxy.gateway.handshake import Handshake
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.settings import Address, Limits, TcpAddress, UnixAddress
from proxy.gateway.upgrade import Upgrades
from proxy.log import RateLimited
from proxy.tasks import Tasks
from proxy.tls import ServerTlsSettings, TlsContexts
from proxy.units import MILLISECONDS, SECONDS
from proxy.unix_socket import private_unix_socket

_log = logging.getLogger("proxy.gateway")
_BACKLOG = 1024  # connections the kernel holds while the loop is busy
# Connections accepted in one turn of the event loop: libuv accepts one for each descriptor that listens. Of few, each is
# served in a turn of its own, and each of its writes wakes whoever sleeps on the other side.
_ACCEPTED_AT_ONCE = 8
_LAST_ACCEPTS_S = 50 * MILLISECONDS
_DRAIN_STEP_S = 10 * MILLISECONDS
_LAST_ANSWERS_S = 1 * SECONDS  # for what is written after the drain timeout; aiohttp takes 0 for no bound at all


class GatewayServer:
    """Listens, and ends without losing requests."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        refusals: RefusalRecorder,
        clock: Clock,
        tasks: Tasks,
        tls: ServerTlsSettings | None = None,
        direct: bool = True,
    ) -> None:
        """`direct` lets plain requests take the direct path; without it, all take the general one, with the same result."""
        self._handler = handler
        self._tasks = tasks
        self._tls = tls
        self._contexts = TlsContexts()
        self._limits = limits
        self._refusals = refusals
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._general = GeneralServer(handler, limits=limits, refusals=refusals)
        self._upgrades = Upgrades(handler)
        self._direct = DirectServer(
            handler, limits=limits, clock=clock, tasks=tasks, give_back=self._taken_back, refuse=self._refused
        )
        self._takers = Takers(general=self._general.take, upgrade=self._upgrades.take)
        self._take = self._direct.take if direct else self._front_takes
        self._admission = Admission(limits, self._loop)
        self._failures = RateLimited(_log, 1)
        self._handshakes: set[Handshake] = set()
        self._waiting: set[FrontProtocol] = set()
        self._turned_away: set[FrontProtocol] = set()
        self._listeners: list[asyncio.Server] = []
        self._socket_files: list[Path] = []
        self._drain_bound: asyncio.Timeout | None = None
        self._hurried = False
        self.addresses: list[Address] = []  # as bound: port 0 of the settings is a real port here

    @property
    def open_connections(self) -> int:
        """Returns how many client connections are open."""
        return self._admission.open

    def _front(self, *, unix: bool, place: Place | None = None) -> FrontProtocol:
        """Returns the protocol of a connection that does not take the direct path; it asks for its place if it has none.

        Who comes by a unix socket was let in by the file's mode.
        """
        return FrontProtocol(
            unix=unix,
            takers=self._takers,
            admission=self._admission,
            waiting=self._waiting,
            turned_away=self._turned_away,
            limits=self._limits,
            refusals=self._refusals,
            loop=self._loop,
            place=place,
        )

    def _taken_back(self, transport: asyncio.Transport, place: Place, data: bytes, half_closed: bool) -> None:  # noqa: FBT001
        """Goes on with a connection that leaves the direct path, from its next request on."""
        self._front_takes(transport, data, place)
        if half_closed and not transport.get_protocol().eof_received():  # type: ignore[attr-defined]  # as if it came now
            transport.close()

    def _refused(self, transport: asyncio.Transport, place: Place, error: GatewayError | None) -> None:
        """Ends a connection of the direct path that sent too much or too slowly."""
        front = self._front(unix=place.peer.address is None, place=place)
        transport.set_protocol(front)
        front.connection_made(transport)
        front.end(error)

    def _front_takes(self, transport: asyncio.Transport, data: bytes, place: Place) -> None:
        """Takes a connection that has its place, with what has come of it already."""
        front = self._front(unix=place.peer.address is None, place=place)
        transport.set_protocol(front)
        front.connection_made(transport)
        if data:
            front.data_received(data)

    def _turn_away(self, transport: asyncio.Transport, *, unix: bool) -> None:
        """Ends one connection too many."""
        front = self._front(unix=unix)
        transport.set_protocol(front)
        front.connection_made(transport)  # asks again, in vain

    def _accepted(self, *, unix: bool) -> Callable[[], asyncio.Protocol]:
        """Returns what gives connections to one of our addresses their protocol."""
        return self.receiver(unix=unix) if self._tls is None else partial(self._handshake, self._tls, unix=unix)

    def receiver(self, *, unix: bool) -> Callable[[], asyncio.Protocol]:
        """Returns what gives new connections that speak plain HTTP their protocol."""
        if self._take == self._front_takes:
            return partial(self._front, unix=unix)
        turn_away = partial(self._turn_away, unix=unix)
        reception = Reception(unix=unix, admission=self._admission, take=self._take, turn_away=turn_away)
        return lambda: reception

    def _handshake(self, tls: ServerTlsSettings, *, unix: bool) -> Handshake:
        return Handshake(
            unix=unix,
            context=partial(self._contexts.get, tls),
            take=self._take,
            admission=self._admission,
            under_way=self._handshakes,
            limits=self._limits,
            refusals=self._refusals,
            failures=self._failures,
            tasks=self._tasks,
            loop=self._loop,
        )

    async def listen(self, addresses: tuple[Address, ...]) -> None:
        """Opens every listener.

        Raises ConfigurationError if the TLS files cannot be used, or if an address, which it names, cannot be had.
        """
        if self._tls is not None:
            self._contexts.get(self._tls)
        for address in addresses:
            try:
                if isinstance(address, UnixAddress):
                    listener = await self._loop.create_unix_server(
                        self._accepted(unix=True),
                        sock=private_unix_socket(address.path),
                        backlog=_BACKLOG,
                    )
                    self._socket_files.append(address.path)
                    bound: Address = address
                else:
                    listener = await self._loop.create_server(
                        self._accepted(unix=False),
                        address.host,
                        address.port,
                        backlog=_BACKLOG,
                        reuse_address=True,
                    )
                    bound = TcpAddress(address.host, listener.sockets[0].getsockname()[1])
                self._listeners.append(listener)
                if isinstance(bound, TcpAddress) and not isinstance(self._loop, asyncio.BaseEventLoop):
                    await self._listen_again(listener)
            except OSError as error:
                raise ConfigurationError(f"listen {address}: {_reason(error)}") from None
            self.addresses.append(bound)

    async def _listen_again(self, listener: asyncio.Server) -> None:
        """Has further descriptors of a listener watched, so that uvloop accepts several connections in one turn."""
        for listening in tuple(listener.sockets) * (_ACCEPTED_AT_ONCE - 1):
            again = socket.socket(fileno=os.dup(listening.fileno()))
            try:
                server = await self._loop.create_server(self._accepted(unix=False), sock=again, backlog=_BACKLOG)
            except BaseException:
                again.close()
                raise
            self._listeners.append(server)

    async def drain(self, timeout_s: float) -> bool:
        """Stops accepting, lets requests under way finish; returns False if some had to be cut off."""
        self._handler.traffic.draining = True
        await self._clock.sleep(_LAST_ACCEPTS_S)  # who connected before the signal is not turned away
        for path in self._socket_files:
            path.unlink(missing_ok=True)  # while it is ours: once it is closed, a successor may replace it
        for listener in self._listeners:
            listener.close()
        finished = True
        try:
            async with asyncio.timeout(0 if self._hurried else timeout_s) as self._drain_bound:
                # A head under way is a request too, though nobody serves it yet; closing flushes what was written last.
                while self._handshakes or self._waiting or self._direct.connections or self._general.connections:
                    for early in self._before_a_request():
                        early.drain()
                    self._direct.close_idle()
                    self._general.close_idle()
                    await self._clock.sleep(_DRAIN_STEP_S)
                await self._admission.none_open()
        except TimeoutError:
            heads_cut = self._direct.cut_heads()
            finished = not len(self._handler.traffic) and not self._waiting and not heads_cut
            for early in self._before_a_request():
                early.cut()
            await self._handler.traffic.cut()
        finally:
            self._drain_bound = None
        await self._direct.stop(_LAST_ANSWERS_S)
        await self._upgrades.stop()
        await self._general.shutdown(_LAST_ANSWERS_S)
        self._admission.cut()
        return finished

    def _before_a_request(self) -> list[Handshake | FrontProtocol]:
        """Returns the connections that have not sent a whole head yet."""
        return [*self._handshakes, *self._waiting]

    def hurry(self) -> None:
        """Ends the waiting of a `drain` under way, or of one to come."""
        self._hurried = True
        if self._drain_bound is not None:
            self._drain_bound.reschedule(self._loop.time())


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is already in use (--listen names another)"
    if error.errno == errno.EACCES:
        return "permission denied (ports below 1024 need a privilege)"
    return error.strerror or type(error).__name__
