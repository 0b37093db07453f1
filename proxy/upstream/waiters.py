"""Those who wait for a connection of one pool: first come, first served, bounded in number and in time.

A waiter is told its turn by a call, so that waiting takes no task, no future and no timer of its own: one timer watches
the whole queue, since whoever came first is also the first whose time is over. To come, to leave and to be served each
cost O(1), however many wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from proxy.errors import ErrorType, GatewayError, Side
from proxy.units import MILLISECONDS, SECONDS
from proxy.upstream.connection import UpstreamConnection

_SOONEST_LOOK_S = 10 * MILLISECONDS  # how late one may be told that its time is over


class Waiter(Protocol):
    """Who waits for a connection; one of these is called, once. None of them may raise."""

    def served(self, connection: UpstreamConnection) -> bool:
        """Takes a connection that is fit for use; False if it has no use for it any more.

        Called from within the end of another exchange: it may begin its own.
        """

    def may_open(self) -> bool:
        """Opens a connection (`Pool.open`), for which a place is taken; False if it has no use for it any more."""

    def failed(self, error: GatewayError) -> None:
        """Takes note that no connection comes: too many wait, its time is over, or the pool has closed."""


class Waiters:
    """The queue of one pool."""

    __slots__ = ("_line", "_most", "_timeout_s", "_timer")

    def __init__(self, most: int, timeout_s: float) -> None:
        """At most so many wait, each for so long; 0 = without bound in time."""
        self._most = most
        self._timeout_s = timeout_s
        self._line: OrderedDict[Waiter, tuple[float, bool]] = OrderedDict()  # since when; a fresh connection is wanted
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._line)

    def join(self, waiter: Waiter, *, fresh: bool = False) -> None:
        """Lets one wait, behind all others; `fresh` wants a connection that is opened for it. Tells it if it may not."""
        if len(self._line) >= self._most:
            waiter.failed(_overloaded("too many requests wait for a connection"))
            return
        loop = asyncio.get_running_loop()
        self._line[waiter] = (loop.time(), fresh)
        if self._timer is None and self._timeout_s:
            self._timer = loop.call_later(self._timeout_s, self._turn_away)

    def leave(self, waiter: Waiter) -> None:
        """Lets one go that waits no more. Idempotent."""
        self._line.pop(waiter, None)

    def serve(self, connection: UpstreamConnection) -> bool:
        """Gives an unused connection to the first; returns False if nobody takes it.

        One that cannot serve the first is closed, by which its owner gives its place to that waiter.
        """
        line = self._line
        while line:
            waiter, wish = line.popitem(last=False)
            if wish[1] or not connection.quiet():
                line[waiter] = wish
                line.move_to_end(waiter, last=False)
                if wish[1]:
                    connection.close()
                else:
                    connection.abort()
                return True
            if waiter.served(connection):
                return True
        return False

    def let_open(self) -> bool:
        """Lets the first open a connection in a place that is taken; returns False if nobody does."""
        while self._line:
            waiter, _ = self._line.popitem(last=False)
            if waiter.may_open():
                return True
        return False

    def close(self, why: Callable[[], GatewayError]) -> None:
        """Turns everybody away, each with an error of its own: raised by several, one would gather their tracebacks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            waiter, _ = self._line.popitem(last=False)
            waiter.failed(why())

    def _turn_away(self) -> None:
        """Tells those whose time is over, and looks again when the next one's may be."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._line:
            waiter, (since_s, _) = next(iter(self._line.items()))
            left_s = since_s + self._timeout_s - now_s
            if left_s > 0:
                self._timer = loop.call_later(max(left_s, _SOONEST_LOOK_S), self._turn_away)
                return
            del self._line[waiter]
            waiter.failed(_overloaded("no connection became free in time"))


def _overloaded(detail: str) -> GatewayError:
    return GatewayError(ErrorType.CONNECTION_LIMIT_REACHED, Side.GATEWAY, detail, retry_after_s=1 * SECONDS)
