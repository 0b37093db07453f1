"""A pool with its upstream and those who ask, and what a call costs in Python's own operations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from proxy.errors import ErrorType, GatewayError, Retry, Side
from proxy.tasks import Tasks
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.origin import Origin
from proxy.upstream.pool import Pool, PoolCounts, PoolKey, PoolLimits, Pools
from tests.support.fake_clock import FakeClock, settle
from tests.support.scripted_upstream import WITHIN_S, ScriptedUpstream, always, ok
from tests.upstream.recording_sink import exchange


class Scene:
    """A pool, its upstream, and those who ask."""

    def __init__(self, upstream: ScriptedUpstream, pool: Pool, clock: FakeClock) -> None:
        self.upstream = upstream
        self.pool = pool
        self.clock = clock
        self.tasks = Tasks()

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        return await self.pool.acquire(connect_timeout_s=WITHIN_S, fresh=fresh)

    async def ask(self, *, fresh: bool = False) -> asyncio.Task[UpstreamConnection]:
        """Starts to acquire, and lets it get as far as it can without network."""
        task = self.tasks.start(self.acquire(fresh=fresh), name="asks")
        await settle()
        return task

    async def used(self) -> UpstreamConnection:
        """Serves one request; returns the connection it used, which is released."""
        connection = await self.acquire()
        await exchange(connection)
        self.pool.release(connection)
        return connection

    def counts(self) -> tuple[int, int, int]:
        counts = self.pool.counts()
        return counts.connecting, counts.idle, counts.busy


@asynccontextmanager
async def scene(
    *scripts: Any, port: int | None = None, ssl: Any = None, tls: Any = None, **limits: Any
) -> AsyncIterator[Scene]:
    clock = FakeClock()
    pools = Pools(clock)
    async with ScriptedUpstream(*(scripts or (always(ok(b"x")),)), ssl=ssl) as upstream:
        origin = Origin("https" if ssl else "http", "127.0.0.1", port or upstream.port)
        pool = pools.get(PoolKey(origin=origin, tls=tls, limits=PoolLimits(**limits)))
        at = Scene(upstream, pool, clock)
        try:
            yield at
        finally:
            await at.tasks.stop()
            await pools.close()
            assert pool.counts() == PoolCounts(0, 0, 0)
            assert pool.pending == 0
        await upstream.until(lambda: upstream.open == 0)


def overloaded(error: BaseException | None) -> bool:
    return (
        isinstance(error, GatewayError)
        and error.error_type is ErrorType.CONNECTION_LIMIT_REACHED
        and error.side is Side.GATEWAY
        and error.retry is Retry.NEVER
        and error.retry_after_s is not None
    )


def operations(call: Callable[[], object]) -> int:
    """Returns how many of Python's operations a call takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
