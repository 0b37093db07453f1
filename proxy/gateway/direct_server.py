"""The connections on the direct path, and the one timer that looks after all of them.

A deadline is a number of ticks since something happened, so that a request sets no timer; a tick is a second, or less
where a shorter time was configured. What is told here of time is late by a tick at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.clock import Clock
from proxy.errors import GatewayError, Problem, Refusal
from proxy.gateway.admission import Place
from proxy.gateway.direct import DirectConnection
from proxy.gateway.handler import Handler
from proxy.gateway.settings import Limits
from proxy.gathering import Turn
from proxy.tasks import Tasks
from proxy.transports import abort
from proxy.units import MILLISECONDS, SECONDS

_LONGEST_TICK_S = 1 * SECONDS
_STOP_STEP_S = 10 * MILLISECONDS
_SHORTEST_TICK_S = 10 * MILLISECONDS


class DirectServer:
    """All connections that have sent nothing but plain requests so far."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        clock: Clock,
        tasks: Tasks,
        give_back: Callable[[asyncio.Transport, Place, bytes, bool], None],
        refuse: Callable[[asyncio.Transport, Place, GatewayError | None], None],
    ) -> None:
        """Serves by the handler's rules.

        `give_back` takes a connection with a request that is not plain, and whether its client has ended its sending; `refuse` ends one, with an answer if there is
        an error to tell, and closes when the client has read what was written.
        """
        self.handler = handler
        self.now = clock.now
        self._clock = clock
        self.limits = limits
        self.tasks = tasks
        self.give_back = give_back
        self.refuse = refuse
        self.loop = asyncio.get_running_loop()
        self.turn = Turn()
        self.connections: set[DirectConnection] = set()
        self._tick_s = self._suited()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, transport: asyncio.Transport, data: bytes, place: Place) -> None:
        """Takes a connection over, with the first octets that have come of it already."""
        connection = DirectConnection(self, transport, place)
        self.connections.add(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(self._tick_s, self._look)
        transport.set_protocol(connection)
        if data:
            connection.data_received(data)

    def close_idle(self) -> None:
        """Closes the connections on which no request is under way."""
        for connection in tuple(self.connections):
            if connection.idle and connection.transport is not None:
                connection.close()

    def cut_heads(self) -> bool:
        """Ends the connections whose head is still under way: 503 `draining`; tells whether there were any."""
        under_way = [connection for connection in self.connections if connection.head_under_way]
        for connection in under_way:
            connection.refuse(Refusal(Problem.DRAINING, retry_after_s=1.0))
        return bool(under_way)

    async def stop(self, patience_s: float) -> None:
        """Ends the looking, and the connections: what was written last gets so many seconds to be read."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in tuple(self.connections):
            if connection.transport is not None:
                connection.close()
        end_s = self.now() + patience_s
        while self.connections and self.now() < end_s:
            await self._clock.sleep(_STOP_STEP_S)
        for connection in tuple(self.connections):
            if connection.transport is not None:
                abort(connection.transport)

    def _look(self) -> None:
        for connection in tuple(self.connections):
            connection.look(self._tick_s)
        self._timer = self.loop.call_later(self._tick_s, self._look) if self.connections else None

    def _suited(self) -> float:
        """Returns a tick's length: a quarter of the shortest time to be kept, within bounds."""
        limits = self.limits
        times = [
            limits.head_timeout_s,
            limits.body_idle_timeout_s,
            limits.write_idle_timeout_s,
            limits.keepalive_timeout_s,
        ]
        for plan in self.handler.snapshot.plans.values():
            timeouts = plan.route.timeouts
            times += [timeouts.first_byte_s, timeouts.idle_s, timeouts.total_s]
        shortest_s = min((time_s for time_s in times if time_s), default=_LONGEST_TICK_S * 4)
        return min(_LONGEST_TICK_S, max(_SHORTEST_TICK_S, shortest_s / 4))
