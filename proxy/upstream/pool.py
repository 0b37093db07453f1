"""The pool of connections to one upstream: which connection serves the next request.

Decisions are synchronous and O(1), whatever the pool's size: the newest idle connection, else a new one, else a place
in a bounded queue, first come first served. A place is taken from the moment a connection is begun to be opened until
it is closed, by whomever; every way out of here, a cancellation included, gives the place or the connection to the next
in the queue. Idle connections are closed before a usual upstream closes them, by one timer for the whole pool.

Source: RFC 9112 §9.3.1 (retries, and why idle connections are kept only shortly), §9.4 (concurrency).
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from proxy.clock import Clock, SystemClock
from proxy.errors import ErrorType, GatewayError, Side
from proxy.tasks import Tasks
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import KIB, MILLISECONDS, SECONDS
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.dial import Dialer
from proxy.upstream.origin import Origin
from proxy.upstream.resolver import Resolver

_CLOSING_S = 1 * SECONDS  # for goodbyes to be answered when the pool closes
_SOONEST_SWEEP_S = 10 * MILLISECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one pool. The defaults are those of the configuration file."""

    max_connections: int = 100  # being opened, idle and busy together; at least 1
    max_idle: int = 100  # less than what is busy at once means to close and to open all the time
    idle_timeout_s: float = 4 * SECONDS  # below the 5 s after which Node.js and uvicorn close; 0 = none is kept
    reuse: bool = True  # False = a connection for each request
    max_pending: int = 1000  # requests that may wait for a connection
    pending_timeout_s: float = 5 * SECONDS  # how long one may wait; 0 = no bound


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolKey:
    """All that makes connections interchangeable, and the bounds they share. Compared by equality."""

    origin: Origin
    tls: TlsSettings | None = None  # None = the defaults of the scheme
    limits: PoolLimits = PoolLimits()
    family: int = socket.AF_UNSPEC  # AF_INET or AF_INET6 to use only those addresses


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many connections are in each state."""

    connecting: int
    idle: int
    busy: int


class _Turn(Enum):
    """What a waiter gets when it is not a connection."""

    PLACE = "it may open one: a place is taken in its name"
    LATE = "its time is over"
    CLOSED = "the pool has closed"


_Waiter = asyncio.Future["UpstreamConnection | _Turn"]


class Pool:
    """Connections to one upstream, used on one event loop. Whoever takes a connection releases or aborts it."""

    __slots__ = (
        "_all_gone", "_clock", "_closed", "_connecting", "_connections", "_context", "_dialer", "_handed", "_idle",
        "_leaving", "_limits", "_sweep", "_waiters",
    )  # fmt: skip

    def __init__(self, limits: PoolLimits, dialer: Dialer, clock: Clock) -> None:
        self._limits = limits
        self._dialer = dialer
        self._clock = clock
        self._context = dialer.context()  # connections opened with a former one are not kept
        self._connecting = 0
        self._connections: set[UpstreamConnection] = set()  # open ones, idle or busy
        self._idle: OrderedDict[UpstreamConnection, float] = OrderedDict()  # since when; the newest last
        self._handed: set[UpstreamConnection] = set()  # given to waiters that did not run yet
        self._waiters: OrderedDict[_Waiter, bool] = OrderedDict()  # whether a fresh connection is asked for
        self._leaving: set[UpstreamConnection] = set()  # closed ones whose sockets are still open
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_gone: asyncio.Future[None] | None = None

    @property
    def pending(self) -> int:
        """How many requests wait for a connection."""
        return len(self._waiters)

    def counts(self) -> PoolCounts:
        """Returns how many connections are in each state. O(1)."""
        idle = len(self._idle)
        return PoolCounts(self._connecting, idle, len(self._connections) - idle)

    def take_idle(self) -> UpstreamConnection | None:
        """Returns the newest idle connection that is fit for use, None if there is none. O(1), no await.

        Nobody overtakes those who wait: while there are any, nothing is idle.
        """
        while self._idle:
            connection, since_s = self._idle.popitem()
            if self._clock.now() - since_s >= self._limits.idle_timeout_s:
                connection.close()
            elif connection.quiet():
                return connection
            else:
                connection.abort()
        return None

    async def acquire(self, *, connect_timeout_s: float | None, fresh: bool = False) -> UpstreamConnection:
        """Returns a connection for one exchange; `fresh` wants one that is opened for this call.

        Waits for its turn for at most `pending_timeout_s`, then opens within `connect_timeout_s` (None or 0 = no
        bound), in seconds. Raises GatewayError(CONNECTION_LIMIT_REACHED, GATEWAY) if too many wait or the turn does
        not come; else as `Dialer.dial`.
        """
        if self._closed:
            raise _stopping()
        connection = None if fresh else self.take_idle()
        if connection is not None:
            return connection
        if fresh and self._full() and self._idle:
            next(iter(self._idle)).close()  # the oldest makes room
        if not self._full():
            self._connecting += 1
        else:
            connection = await self._turn(fresh=fresh)
            if connection is not None:
                return connection
        return await self._open(connect_timeout_s)

    def release(self, connection: UpstreamConnection) -> None:
        """Takes a connection back: for the first in the queue, as idle, or not at all. O(1).

        One whose exchange is not over is aborted; one that has closed gave its place away already.
        """
        if not connection.reusable:
            connection.abort()
        elif self._closed or not self._limits.reuse or connection.opened_with is not self._context:
            connection.close()
        else:
            connection.reused = True  # from now on the upstream may have closed it before it is used
            self._pass_on(connection)

    async def close(self) -> None:
        """Closes every connection, fails the exchanges on them, and turns away who waits."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._waiters:
            waiter, _ = self._waiters.popitem()
            if not waiter.done():
                waiter.set_result(_Turn.CLOSED)
        for connection in tuple(self._idle):
            connection.close()
        for connection in tuple(self._connections):
            connection.fail(_stopping())
        if self._leaving:
            loop = asyncio.get_running_loop()
            self._all_gone = loop.create_future()
            patience = loop.call_later(_CLOSING_S, self._abort_leaving)
            try:
                await self._all_gone
            finally:
                patience.cancel()

    # ---- places and turns

    def _full(self) -> bool:
        return len(self._connections) + self._connecting >= self._limits.max_connections

    async def _turn(self, *, fresh: bool) -> UpstreamConnection | None:
        """Waits in the queue. Returns a connection, or None: a place is taken and `_open` is due."""
        if len(self._waiters) >= self._limits.max_pending:
            raise _overloaded("too many requests wait for a connection")
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        self._waiters[waiter] = fresh
        timeout_s = self._limits.pending_timeout_s
        timer = loop.call_later(timeout_s, self._late, waiter) if timeout_s else None
        try:
            given = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # given something in the very moment
                self._refuse(waiter.result())
            else:
                self._waiters.pop(waiter, None)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        match given:
            case _Turn.PLACE:
                return None
            case _Turn.LATE:
                raise _overloaded("no connection became free in time")
            case _Turn.CLOSED:
                raise _stopping()
            case _:
                if not given.quiet():
                    given.abort()
                if given in self._handed:
                    self._handed.remove(given)
                    return given
                return None  # it closed on the way; its place stayed taken in our name

    def _refuse(self, given: UpstreamConnection | _Turn) -> None:
        """Passes on what a cancelled waiter was given."""
        if isinstance(given, UpstreamConnection):
            if given in self._handed:
                self._handed.remove(given)
                self._pass_on(given)
            else:  # it closed on the way, and its place is ours
                self._give_up_place()
        elif given is _Turn.PLACE:
            self._give_up_place()

    def _late(self, waiter: _Waiter) -> None:
        if self._waiters.pop(waiter, None) is not None and not waiter.done():
            waiter.set_result(_Turn.LATE)

    def _pass_on(self, connection: UpstreamConnection) -> None:
        """Gives an unused connection to the first in the queue, else keeps it as idle."""
        while self._waiters:
            waiter, fresh = self._waiters.popitem(last=False)
            if waiter.done():  # cancelled, and not run yet
                continue
            if fresh:
                self._waiters[waiter] = True
                self._waiters.move_to_end(waiter, last=False)
                connection.close()  # which gives its place to that waiter
            else:
                self._handed.add(connection)
                waiter.set_result(connection)
            return
        if self._closed or len(self._idle) >= self._limits.max_idle or self._limits.idle_timeout_s <= 0:
            connection.close()
            return
        self._idle[connection] = self._clock.now()
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._limits.idle_timeout_s, self._close_old)

    def _give_up_place(self) -> None:
        self._connecting -= 1
        self._place_freed()

    def _place_freed(self) -> None:
        """Gives a free place to the first in the queue."""
        while self._waiters and not self._full():
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                self._connecting += 1
                waiter.set_result(_Turn.PLACE)

    async def _open(self, timeout_s: float | None) -> UpstreamConnection:
        """Opens a connection in a place that is already taken."""
        try:
            connection = await self._dialer.dial(self, timeout_s)
        except BaseException:
            self._give_up_place()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        self._context = self._dialer.context()
        if self._closed:
            connection.abort()
            raise _stopping()
        return connection

    # ---- what connections tell: their owner's calls

    def connection_closed(self, connection: UpstreamConnection) -> None:
        """Frees the place of a connection; one on its way to a waiter leaves the place to that."""
        self._leaving.add(connection)
        self._idle.pop(connection, None)
        if connection not in self._connections:
            return  # closed while being opened: the place is freed there
        self._connections.remove(connection)
        if connection in self._handed:
            self._handed.remove(connection)
            self._connecting += 1
        else:
            self._place_freed()

    def connection_gone(self, connection: UpstreamConnection) -> None:
        """Notes that a closed connection's socket is closed too."""
        self._leaving.discard(connection)
        if self._all_gone is not None and not self._leaving and not self._all_gone.done():
            self._all_gone.set_result(None)

    # ---- timers

    def _close_old(self) -> None:
        """Closes what was idle for too long or was opened with files that changed; runs while something is idle."""
        self._sweep = None
        now_s = self._clock.now()
        context = self._dialer.context()
        if context is not self._context:
            self._context = context
            for connection in tuple(self._idle):
                connection.close()
        while self._idle:
            oldest, since_s = next(iter(self._idle.items()))
            left_s = since_s + self._limits.idle_timeout_s - now_s
            if left_s > 0:
                loop = asyncio.get_running_loop()
                self._sweep = loop.call_later(max(left_s, _SOONEST_SWEEP_S), self._close_old)
                return
            oldest.close()

    def _abort_leaving(self) -> None:
        for connection in tuple(self._leaving):
            connection.abort()


class Pools:
    """All pools of a gateway: routes with equal keys share one, and all share TLS contexts and look-ups."""

    __slots__ = ("_clock", "_contexts", "_pools", "_resolver", "_tasks")

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tasks = Tasks()
        self._contexts = TlsContexts()
        self._resolver = Resolver(self._tasks)
        self._pools: dict[tuple[PoolKey, int, int], Pool] = {}

    def get(self, key: PoolKey, *, max_head_octets: int = 32 * KIB, max_fields: int = 100) -> Pool:
        """Returns the pool of a key and of these bounds for a response's head, made at first use; needs no event loop.

        Raises ConfigurationError if the TLS files that the key names cannot be used.
        """
        pool = self._pools.get((key, max_head_octets, max_fields))
        if pool is None:
            dialer = Dialer(
                key.origin,
                key.tls,
                contexts=self._contexts,
                resolver=self._resolver,
                family=key.family,
                max_head_octets=max_head_octets,
                max_fields=max_fields,
            )
            pool = self._pools[key, max_head_octets, max_fields] = Pool(key.limits, dialer, self._clock)
        return pool

    async def close(self) -> None:
        """Closes every pool."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self._tasks.stop()


def _overloaded(detail: str) -> GatewayError:
    return GatewayError(ErrorType.CONNECTION_LIMIT_REACHED, Side.GATEWAY, detail, retry_after_s=1 * SECONDS)


def _stopping() -> GatewayError:
    return GatewayError(ErrorType.CONNECTION_TERMINATED, Side.GATEWAY, "the gateway closes its connections")
