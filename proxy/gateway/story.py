"""A request of a client on the direct path that the handler serves, or goes on to serve: the one kind that has a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.gateway.begun import Begun
from proxy.gateway.relay import ClientStream

if TYPE_CHECKING:
    from proxy.gateway.direct_exchange import DirectExchange
    from proxy.gateway.direct_server import DirectServer
    from proxy.gateway.handler import Handler
    from proxy.gateway.record import RequestRecord


class Story:
    """What the handler does for one request, until it is over."""

    __slots__ = ("_client", "_task")

    def __init__(
        self,
        server: DirectServer,
        client: ClientStream,
        begun: Begun | Exception,
        *,
        record: RequestRecord,
        so_far: DirectExchange,
        over: Callable[[bool], None],
    ) -> None:
        """Begins, with what has happened so far or with a fault of ours to tell of.

        `so_far` has been counted as the request under way until now. `over` is called at the end, with whether the
        client's connection may serve another request.
        """
        self._client = client
        self._task = server.tasks.start(self._told(server.handler, begun, record, so_far, over), name="request")

    @property
    def started(self) -> bool:
        """Tells whether the answer has begun."""
        return self._client.started

    def cancel(self) -> None:
        """Ends it: after its first step, since without one nothing of it would be undone."""
        self._task.get_loop().call_soon(self._task.cancel)

    async def _told(
        self,
        handler: Handler,
        begun: Begun | Exception,
        record: RequestRecord,
        so_far: DirectExchange,
        over: Callable[[bool], None],
    ) -> None:
        task, client = asyncio.current_task(), self._client
        assert task is not None
        handler.traffic.begin(task)  # the handler counts it from here on
        handler.traffic.end(so_far)
        try:
            if isinstance(begun, Begun):
                await handler.go_on(client, record, begun)
            else:
                await handler.tell_of(client, record, begun)
        finally:
            over(client.keep_alive and client.started)
