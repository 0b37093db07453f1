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

from proxy.clock import Clock, SystemClock
from proxy.errors import ErrorType, GatewayError, Side
from proxy.tasks import Tasks
from proxy.tls import TlsContexts, TlsSettings
from proxy.units import KIB, MILLISECONDS, SECONDS
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.dial import Dialer
from proxy.upstream.origin import Origin
from proxy.upstream.resolver import Resolver
from proxy.upstream.waiters import Waiter, Waiters

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
        self._handed: set[UpstreamConnection] = set()  # given to tasks that wait and did not run yet
        self._waiters = Waiters(limits.max_pending, limits.pending_timeout_s)
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

    def take_idle(self, *, asked_later: bool = False) -> UpstreamConnection | None:
        """Returns the newest idle connection that is fit for use, None if there is none. O(1), no await.

        With `asked_later` it is not asked whether it is quiet: it looks itself just before a request is written, and fails
        that as not sent. Nobody overtakes those who wait: while there are any, nothing is idle.
        """
        while self._idle:
            connection, since_s = self._idle.popitem()
            if self._clock.now() - since_s >= self._limits.idle_timeout_s:
                connection.close()
            elif asked_later or connection.quiet():
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
        connection = None if fresh or self._closed else self.take_idle()
        if connection is None:
            connection = await self._turn(fresh=fresh)
        return connection or await self.open(connect_timeout_s)

    def ask(self, waiter: Waiter, *, fresh: bool = False) -> None:
        """Has a waiter told when its turn has come, or that it will not. O(1), no await.

        It is told at once, within this call, if there is room for a connection more, too many wait, or the pool has
        closed. For who has found nothing by `take_idle`, or wants a `fresh` connection: one that is opened for it.
        """
        if self._closed:
            waiter.failed(_stopping())
            return
        if fresh and self._full() and self._idle:
            next(iter(self._idle)).close()  # the oldest makes room
        if self._full():
            self._waiters.join(waiter, fresh=fresh)
        else:
            self._connecting += 1
            waiter.may_open()

    def leave(self, waiter: Waiter) -> None:
        """Takes a waiter out of the queue, if it is there. O(1)."""
        self._waiters.leave(waiter)

    async def open(self, timeout_s: float | None) -> UpstreamConnection:
        """Opens a connection in a place that is taken: for a waiter that may. Raises as `Dialer.dial`."""
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
        self._waiters.close(_stopping)
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
        """Waits for its turn. Returns a connection, or None: a place is taken and `open` is due."""
        waiter = _Task(self._handed)
        self.ask(waiter, fresh=fresh)
        try:
            given = await waiter.told
        except asyncio.CancelledError:
            if waiter.told.done() and not waiter.told.cancelled():  # told something in the very moment
                self._refuse(waiter.told.result())
            else:
                self._waiters.leave(waiter)
            raise
        if isinstance(given, GatewayError):
            try:
                raise given
            finally:
                del given, waiter  # else the error would hold itself, by this frame in its traceback
        if given is None:
            return None
        if not given.quiet():
            given.abort()
        if given in self._handed:
            self._handed.remove(given)
            return given
        return None  # it closed on the way; its place stayed taken in our name

    def _refuse(self, given: UpstreamConnection | GatewayError | None) -> None:
        """Passes on what a cancelled task was given."""
        if isinstance(given, GatewayError):
            return
        if given in self._handed:
            self._handed.remove(given)
            self._pass_on(given)
        else:  # a place, or a connection that closed on the way, and its place is ours
            self._give_up_place()

    def _pass_on(self, connection: UpstreamConnection) -> None:
        """Gives an unused connection to the first in the queue, else keeps it as idle."""
        if self._waiters.serve(connection):
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
        """Gives free places to the first in the queue."""
        while self._waiters and not self._full():
            self._connecting += 1
            if not self._waiters.let_open():
                self._connecting -= 1

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


class _Task:
    """A waiter for a task: what it is told is the result of a future."""

    __slots__ = ("_handed", "told")

    def __init__(self, handed: set[UpstreamConnection]) -> None:
        """`handed` holds the connections that were given, until the task has run."""
        self._handed = handed
        self.told: asyncio.Future[UpstreamConnection | GatewayError | None] = asyncio.get_running_loop().create_future()

    def served(self, connection: UpstreamConnection) -> bool:
        """Wakes the task with a connection."""
        if self.told.done():  # cancelled, and not run yet
            return False
        self._handed.add(connection)
        self.told.set_result(connection)
        return True

    def may_open(self) -> bool:
        """Wakes the task, which opens a connection."""
        if self.told.done():  # as above
            return False
        self.told.set_result(None)
        return True

    def failed(self, error: GatewayError) -> None:
        """Wakes the task, which raises."""
        if not self.told.done():
            self.told.set_result(error)


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


def _stopping() -> GatewayError:
    return GatewayError(ErrorType.CONNECTION_TERMINATED, Side.GATEWAY, "the gateway closes its connections")
