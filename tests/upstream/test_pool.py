"""Which connection serves the next request, and that no connection, no place and no turn is ever lost."""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ConfigurationError, ErrorType, GatewayError, Side
from proxy.tasks import Tasks
from proxy.tls import TlsSettings
from proxy.upstream.origin import Origin
from proxy.upstream.pool import PoolCounts, PoolKey, PoolLimits, Pools
from tests.support.fake_clock import settle
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, ok
from tests.upstream.certificates import Authority, server_context
from tests.upstream.pool_scene import operations, overloaded, scene
from tests.upstream.recording_sink import exchange, start

CLOSING = always(ok(b"x", b"Connection: close"))


# ---- which connection


async def test_the_newest_idle_connection_serves_next():
    """So that those beyond need become old and are closed."""
    async with scene() as at:
        first, second = await at.acquire(), await at.acquire()
        assert at.counts() == (0, 0, 2)
        at.pool.release(first)
        at.pool.release(second)
        assert at.counts() == (0, 2, 0)

        assert at.pool.take_idle() is second
        assert await at.acquire() is first
        assert at.pool.take_idle() is None
        assert at.counts() == (0, 0, 2)


async def test_a_released_connection_counts_as_reused():
    """The upstream may have closed it since, whether or not it has answered before."""
    async with scene() as at:
        connection = await at.acquire()
        assert not connection.reused
        at.pool.release(connection)
        assert (await at.acquire()).reused


async def test_a_connection_that_became_old():
    """It is not used, even if no timer has closed it yet: the clock counts, which runs through suspend."""
    async with scene(idle_timeout_s=4) as at:
        connection = await at.used()
        at.clock.suspend(4)
        other = await at.acquire()
        assert other is not connection
        assert connection.closed
        await at.upstream.connections[0].gone()


async def test_a_connection_that_is_not_yet_old():
    """A moment earlier it is."""
    async with scene(idle_timeout_s=4) as at:
        connection = await at.used()
        at.clock.suspend(3.999)
        assert await at.acquire() is connection


def test_a_connection_is_closed_for_being_idle_too_long_only():
    """By default as many may be idle as may be open: else the ones beyond close and open again all the time."""
    assert PoolLimits().max_idle == PoolLimits().max_connections


@pytest.mark.parametrize("limits", [{"reuse": False}, {"max_idle": 0}, {"idle_timeout_s": 0}])
async def test_connections_that_are_not_kept(limits: dict[str, Any]):
    """Each request has its own."""
    async with scene(**limits) as at:
        connections = {await at.used() for _ in range(3)}
        assert len(connections) == 3
        assert at.counts() == (0, 0, 0)
        assert all(connection.closed for connection in connections)


async def test_more_idle_connections_than_are_kept():
    """Those beyond the bound are closed as they come back."""
    async with scene(max_idle=2) as at:
        for connection in [await at.acquire() for _ in range(5)]:
            at.pool.release(connection)
        assert at.counts() == (0, 2, 0)
        await at.upstream.until(lambda: at.upstream.open == 2)


async def test_an_idle_connection_that_the_upstream_closes():
    """It leaves the pool at once; the next request opens another."""
    async with scene() as at:
        connection = await at.used()
        at.upstream.connections[0].close()
        await at.upstream.connections[0].gone()
        await settle()
        assert connection.closed
        assert at.counts() == (0, 0, 0)
        assert await at.used() is not connection


async def test_an_idle_connection_on_which_the_upstream_talks():
    """What it says belongs to nobody; the connection leaves the pool and is never used again."""
    async with scene() as at:
        connection = await at.used()
        at.upstream.connections[0].send(ok(b"poison"))
        await at.upstream.connections[0].gone()
        assert connection.closed
        assert (await exchange(await at.acquire())).body == b"x"


async def test_connections_that_are_released_unfit():
    """One within an exchange, one that has closed, one given up: each frees its place exactly once."""
    async with scene(max_connections=3) as at:
        first, second, third = [await at.acquire() for _ in range(3)]
        start(first)
        at.pool.release(first)
        second.abort()
        at.pool.release(second)
        at.upstream.connections[2].reset()
        await settle()
        while not third.closed:
            await settle()
        at.pool.release(third)
        assert at.counts() == (0, 0, 0)
        for _ in range(3):
            await at.acquire()
        assert at.counts() == (0, 0, 3)


async def test_a_fresh_connection():
    """It is opened for this request, though one is idle; at the bound the oldest idle one makes room."""
    async with scene(max_connections=3) as at:
        first, second = await at.acquire(), await at.acquire()
        at.pool.release(first)
        at.pool.release(second)
        third = await at.acquire(fresh=True)
        assert (third.reused, at.counts()) == (False, (0, 2, 1))
        fourth = await at.acquire(fresh=True)
        assert (fourth.reused, first.closed, second.closed, at.counts()) == (False, True, False, (0, 1, 2))


async def test_a_fresh_connection_for_one_who_waits():
    """A connection that comes back is closed for it, and its place used."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        asking = await at.ask(fresh=True)
        assert at.pool.pending == 1
        at.pool.release(connection)
        fresh = await asking
        assert connection.closed
        assert not fresh.reused
        assert at.counts() == (0, 0, 1)


# ---- those who wait


async def test_no_more_connections_than_allowed():
    """The next one waits, and gets the connection that comes back first."""
    async with scene(max_connections=2) as at:
        first, second = await at.acquire(), await at.acquire()
        asking = await at.ask()
        assert (asking.done(), at.pool.pending) == (False, 1)
        at.pool.release(second)
        assert await asking is second
        assert at.counts() == (0, 0, 2)
        assert len(at.upstream.connections) == 2
        assert not first.closed


async def test_those_who_wait_are_served_in_order():
    """First come, first served, whether a connection comes back or its place becomes free; no newcomer overtakes."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        order: list[int] = []

        async def one(number: int) -> None:
            taken = await at.acquire()
            order.append(number)
            if number % 2:
                await exchange(taken)
                at.pool.release(taken)
            else:
                taken.abort()

        asking = [at.tasks.start(one(number), name=str(number)) for number in range(20)]
        await settle()
        at.pool.release(connection)
        assert at.pool.take_idle() is None
        newcomer = at.tasks.start(one(20), name="newcomer")
        await asyncio.gather(*asking, newcomer)
        assert order == list(range(21))


async def test_a_queue_that_is_full():
    """The next one is turned away at once, with a time to come back; nobody else is."""
    async with scene(max_connections=1, max_pending=2) as at:
        connection = await at.acquire()
        waiting = [await at.ask(), await at.ask()]
        with pytest.raises(GatewayError) as caught:
            await at.acquire()
        assert overloaded(caught.value)
        at.pool.release(connection)
        assert await waiting[0] is connection


async def test_nobody_may_wait():
    """`max_pending` 0 turns away at once."""
    async with scene(max_connections=1, max_pending=0) as at:
        await at.acquire()
        with pytest.raises(GatewayError) as caught:
            await at.acquire()
        assert overloaded(caught.value)


async def test_one_who_waits_too_long():
    """It is turned away, and leaves nothing behind."""
    async with scene(max_connections=1, pending_timeout_s=0.01) as at:
        connection = await at.acquire()
        with pytest.raises(GatewayError) as caught:
            await at.acquire()
        assert overloaded(caught.value)
        assert at.pool.pending == 0
        at.pool.release(connection)
        assert at.counts() == (0, 1, 0)


async def test_a_place_that_becomes_free():
    """When a connection closes, whatever the reason, the next in the queue opens another."""
    async with scene(CLOSING, always(ok(b"y")), max_connections=1) as at:
        connection = await at.acquire()
        asking = await at.ask()
        await exchange(connection)
        at.pool.release(connection)
        assert (await exchange(await asking)).body == b"y"


async def test_a_connection_that_cannot_be_opened():
    """Its place goes to the next in the queue, who fails by itself; in the end all places are free."""
    async with scene(port=1, max_connections=1) as at:
        asking = [await at.ask() for _ in range(5)]
        await asyncio.wait(asking)
        errors = [task.exception() for task in asking]
        assert all(isinstance(e, GatewayError) and e.error_type is ErrorType.CONNECTION_REFUSED for e in errors)
        assert at.counts() == (0, 0, 0)


# ---- those who give up


async def test_a_waiter_that_gives_up():
    """Its turn goes to the one behind it."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        first, second = await at.ask(), await at.ask()
        first.cancel()
        at.pool.release(connection)
        assert await second is connection
        assert first.cancelled()


async def test_a_waiter_that_gives_up_when_it_has_just_been_served():
    """The connection in its hands goes to the one behind it."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        first, second = await at.ask(), await at.ask()
        at.pool.release(connection)
        first.cancel()
        assert await second is connection
        assert first.cancelled()
        assert at.counts() == (0, 0, 1)


async def test_the_only_waiter_that_gives_up_when_it_has_just_been_served():
    """The connection in its hands is idle again."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        only = await at.ask()
        at.pool.release(connection)
        only.cancel()
        await settle()
        assert at.counts() == (0, 1, 0)
        assert await at.acquire() is connection


async def test_a_waiter_that_gives_up_when_it_has_just_got_a_place():
    """The place goes to the one behind it."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        first, second = await at.ask(), await at.ask()
        connection.abort()
        first.cancel()
        await second
        assert first.cancelled()
        assert at.counts() == (0, 0, 1)


async def test_a_connection_that_closes_on_its_way_to_a_waiter():
    """The waiter keeps its turn and opens another in the same place."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        first, second = await at.ask(), await at.ask()
        at.pool.release(connection)
        connection.abort()
        fresh = await first
        assert fresh is not connection
        assert not second.done()
        assert at.counts() == (0, 0, 1)


async def test_a_connection_that_becomes_readable_on_its_way_to_a_waiter():
    """What has come on it since would pass for the waiter's answer; the waiter opens another in the same place."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with scene(port=server.getsockname()[1], max_connections=1) as at:
            connection = await at.acquire()
            accepted, _ = server.accept()
            with accepted:
                asking = await at.ask()
                at.pool.release(connection)
                # from here on the event loop does not run: it cannot see what comes before the waiter goes on
                accepted.sendall(ok(b"poison"))
                while connection.quiet():
                    pass
                assert await asking is not connection
                assert connection.closed
                assert at.counts() == (0, 0, 1)


async def test_a_connection_that_closes_on_its_way_to_a_waiter_that_gives_up():
    """The place goes to the one behind it."""
    async with scene(max_connections=1) as at:
        connection = await at.acquire()
        first, second = await at.ask(), await at.ask()
        at.pool.release(connection)
        connection.abort()
        first.cancel()
        assert await second is not connection
        assert at.counts() == (0, 0, 1)


@pytest.mark.parametrize("turns", range(15))
async def test_one_who_gives_up_at_any_moment(turns: int):
    """Opening, waiting, or just served: the bound stays exact, and all can be acquired again."""
    async with scene(max_connections=2) as at:
        held = await at.acquire()
        asking = [at.tasks.start(at.acquire(), name=str(number)) for number in range(6)]
        for turn in range(turns):
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
            if turn == turns // 2:
                at.pool.release(held)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        for task in asking:
            if not task.cancelled():
                at.pool.release(task.result())
        if turns <= turns // 2:
            at.pool.release(held)
        connecting, _, busy = at.counts()
        assert (connecting, busy, at.pool.pending) == (0, 0, 0)
        again = [await at.acquire() for _ in range(2)]
        assert len(set(again)) == 2
        await at.upstream.until(lambda: at.upstream.open == 2)


# ---- cost


@pytest.mark.parametrize("kind", ["idle", "busy", "waiting"])
async def test_a_decision_costs_the_same_in_a_pool_of_any_size(kind: str):
    """Counted in Python's own operations: to take and to release, with 1, 100 or 1000 others idle, busy or waiting."""
    costs: dict[int, tuple[int, int]] = {}
    for size in (1, 100, 1000):
        most = 1 + size if kind != "waiting" else 1
        async with scene(max_connections=most, max_idle=2000, max_pending=2000) as at:
            one = await at.acquire()
            if kind == "waiting":
                for _ in range(size):
                    at.tasks.start(at.acquire(), name="waits")
                await settle()
                assert at.pool.pending == size
                costs[size] = (operations(at.pool.take_idle), operations(partial(at.pool.release, one)))
                await settle()
            else:
                others = [await at.acquire() for _ in range(size)]
                if kind == "idle":
                    for other in others:
                        at.pool.release(other)
                at.pool.release(one)
                costs[size] = (operations(at.pool.take_idle), operations(partial(at.pool.release, one)))
                assert at.counts()[1] == (1 + size if kind == "idle" else 1)

    assert costs[1] == costs[100] == costs[1000]
    assert all(cost < 200 for pair in costs.values() for cost in pair)


# ---- timers


async def test_idle_connections_are_closed_when_they_are_old():
    """By one timer for the pool, which stops when nothing is idle any more."""
    async with scene(idle_timeout_s=0.05) as at:
        first, second = await at.acquire(), await at.acquire()
        assert at.pool._sweep is None
        at.pool.release(first)
        timer = at.pool._sweep
        assert timer is not None
        at.pool.release(second)
        assert at.pool._sweep is timer
        at.clock.suspend(1)
        await at.upstream.until(lambda: at.upstream.open == 0)
        assert at.counts() == (0, 0, 0)
        assert at.pool._sweep is None


async def test_idle_connections_that_are_not_old_yet():
    """The timer comes back for them."""
    async with scene(idle_timeout_s=0.05) as at:
        connection = await at.acquire()
        at.pool.release(connection)
        first_timer = at.pool._sweep
        while at.pool._sweep is first_timer:
            await settle()
        assert at.counts() == (0, 1, 0)  # the fake clock stood still
        at.clock.suspend(1)
        await at.upstream.until(lambda: at.upstream.open == 0)
        assert at.pool._sweep is None


async def test_certificates_that_are_replaced(tmp_path: Path):
    """Connections that were opened with the former files are not kept, so a rotation takes hold."""
    authority = Authority(tmp_path)
    tls = TlsSettings(ca_file=authority.file)
    context = server_context(authority.pair("127.0.0.1"))
    async with scene(ssl=context, tls=tls, idle_timeout_s=0.05) as at:
        connection = await at.used()
        other = await at.acquire()
        assert other is connection
        os.utime(authority.file, ns=(1, 1))
        newer = await at.acquire()
        at.pool.release(connection)
        at.pool.release(newer)
        assert (connection.closed, newer.closed) == (True, False)

        os.utime(authority.file, ns=(2, 2))
        while at.counts() != (0, 0, 0):  # the timer finds it out, though nobody asks
            await settle()
        assert newer.closed


# ---- the end


async def test_a_pool_that_closes():
    """Exchanges under way fail, waiters are turned away, idle connections are closed, nothing stays open."""
    pools = Pools()
    tasks = Tasks()
    async with ScriptedUpstream(always(ok()), silent_after_first) as upstream:
        pool = pools.get(
            PoolKey(origin=Origin("http", "127.0.0.1", upstream.port), limits=PoolLimits(max_connections=2))
        )
        idle = await pool.acquire(connect_timeout_s=None)
        busy = await pool.acquire(connect_timeout_s=None)
        sink = start(busy)
        waiting = tasks.start(pool.acquire(connect_timeout_s=None), name="waits")
        behind = tasks.start(pool.acquire(connect_timeout_s=None), name="waits behind it")
        await settle()
        pool.release(idle)  # to the first of the two, who has not run yet
        await pool.close()

        assert sink.error is not None
        assert sink.error.side is Side.GATEWAY
        for task in (waiting, behind):
            with pytest.raises(GatewayError):
                await task
        with pytest.raises(GatewayError):
            await pool.acquire(connect_timeout_s=None)
        assert pool.counts() == PoolCounts(0, 0, 0)
        await upstream.until(lambda: upstream.open == 0)
        await pools.close()


async def silent_after_first(connection: ScriptedConnection) -> None:
    await connection.request()


# ---- which pool


def test_routes_that_agree_share_a_pool():
    """The key is compared by equality; whatever makes connections differ makes another pool."""
    pools = Pools()
    origin = Origin("http", "127.0.0.1", 80)
    pool = pools.get(PoolKey(origin=origin, tls=None, limits=PoolLimits()))

    assert pools.get(PoolKey(origin=Origin("http", "127.0.0.1", 80), limits=PoolLimits())) is pool
    others = [
        PoolKey(origin=Origin("http", "127.0.0.1", 81)),
        PoolKey(origin=Origin("https", "127.0.0.1", 80)),
        PoolKey(origin=origin, tls=TlsSettings(server_name="a")),
        PoolKey(origin=origin, limits=PoolLimits(max_idle=1)),
        PoolKey(origin=origin, family=2),
    ]
    assert len({id(pools.get(key)) for key in others} | {id(pool)}) == 6
    assert pools.get(PoolKey(origin=origin), max_fields=7) is not pool
    assert pools.get(PoolKey(origin=origin), max_head_octets=7) is not pool


def test_a_pool_whose_tls_files_cannot_be_used(tmp_path: Path):
    """It is told when the pool is made, that is at start, not at the first request."""
    key = PoolKey(origin=Origin("https", "a", 443), tls=TlsSettings(ca_file=tmp_path / "missing.pem"))
    with pytest.raises(ConfigurationError, match=r"missing\.pem"):
        Pools().get(key)
