"""How a request on the direct path comes to its connection when none is idle: by its turn in the pool's queue.

Its turn comes as a call, so that a request that waits costs no task, no future and no timer. Only to open a connection
takes a task, which ends with the request's need of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.errors import GatewayError
from proxy.gateway.client import Client
from proxy.gateway.decide import Forward
from proxy.gateway.direct_exchange import DirectExchange
from proxy.tasks import Tasks
from proxy.upstream.connection import UpstreamConnection


class Opening:
    """The wait of a client's requests for their connections, one request at a time. A ``Waiter``."""

    __slots__ = ("_client", "_exchange", "_forward", "_now", "_task", "_tasks")

    def __init__(self, client: Client, exchange: DirectExchange, *, tasks: Tasks, now: Callable[[], float]) -> None:
        self._client = client
        self._exchange = exchange
        self._tasks = tasks
        self._now = now
        self._forward: Forward
        self._task: asyncio.Task[None] | None = None  # that opens a connection

    def begin(self, forward: Forward) -> None:
        """Lets a request that is begun wait for its connection, or open one. O(1)."""
        self._forward = forward
        forward.admitted.plan.pool.ask(self)

    def end(self) -> None:
        """Gives up what is waited for. O(1), idempotent."""
        task, self._task = self._task, None
        if task is None:
            self._forward.admitted.plan.pool.leave(self)
        else:  # after its first step: without one, it could not give its place back
            task.get_loop().call_soon(task.cancel)

    # ---- its turn: the waiter's calls

    def served(self, connection: UpstreamConnection) -> bool:
        """Sends the request, unless its token has run out meanwhile."""
        token = self._forward.token
        if token is not None and not token.usable(self._now()):
            self._exchange.expired()
            return False
        self._client.dispatch(self._forward, self._client.read_nowait(), connection)
        return True

    def may_open(self) -> bool:
        """Opens a connection, by a task."""
        self._task = self._tasks.start(self._open(self._forward), name="connection for a request")
        return True

    def failed(self, error: GatewayError) -> None:
        """Leaves it to the handler to tell."""
        self._exchange.broken(error)

    async def _open(self, forward: Forward) -> None:
        plan = forward.admitted.plan
        try:
            upstream = await plan.pool.open(plan.route.timeouts.connect_s)
        except Exception as fault:  # noqa: BLE001  # the exchange tells of it
            if self._is_needed():
                self._exchange.broken(fault)
            return
        if not self._is_needed() or not self.served(upstream):
            plan.pool.release(upstream)

    def _is_needed(self) -> bool:
        """Tells whether the request still waits for this task, which is at its end."""
        if self._task is not asyncio.current_task():
            return False
        self._task = None
        return True
