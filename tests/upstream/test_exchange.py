"""The exchange that can be awaited: a request and its response, or a failure that leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import ErrorType, GatewayError, Retry, Side
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.wire import ResponseHead
from proxy.tasks import Tasks
from proxy.units import KIB, MIB
from proxy.upstream.exchange import Exchange
from proxy.upstream.origin import Origin
from proxy.upstream.pool import Pool, PoolCounts, PoolKey, PoolLimits, Pools
from tests.support.fake_clock import settle
from tests.support.scripted_upstream import WITHIN_S, Script, ScriptedConnection, ScriptedUpstream, always, early, ok
from tests.upstream.recording_sink import GET

IDLE, NONE, BUSY = PoolCounts(0, 1, 0), PoolCounts(0, 0, 0), PoolCounts(0, 0, 1)


@asynccontextmanager
async def scene(
    *scripts: Script, receive_buffer: int | None = None, **limits: Any
) -> AsyncIterator[tuple[ScriptedUpstream, Pool]]:
    pools = Pools()
    async with ScriptedUpstream(*scripts, receive_buffer=receive_buffer) as upstream:
        origin = Origin("http", "127.0.0.1", upstream.port)
        try:
            yield upstream, pools.get(PoolKey(origin=origin, limits=PoolLimits(**limits)))
        finally:
            await pools.close()


async def opened(pool: Pool, **more: Any) -> Exchange:
    exchange = Exchange(pool, **more)
    await exchange.open(connect_timeout_s=WITHIN_S)
    return exchange


async def begun(pool: Pool, head: bytes = GET, *, body_expected: bool = False, **more: Any) -> Exchange:
    exchange = await opened(pool, **more)
    exchange.start(head, method=head.split(b" ")[0], body_expected=body_expected)
    return exchange


async def body_of(exchange: Exchange) -> bytes:
    pieces = []
    while (data := await exchange.read(WITHIN_S)) is not None:
        assert data
        pieces.append(data)
    return b"".join(pieces)


def post(length: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length


async def fails(awaitable: Awaitable[object]) -> tuple[ErrorType, Side, Retry]:
    with pytest.raises(GatewayError) as caught:
        await awaitable
    return caught.value.error_type, caught.value.side, caught.value.retry


async def test_a_request_and_its_response():
    """The head, its framing, the body, its end; the connection serves the next one."""
    async with scene(always(ok(b"body"))) as (upstream, pool):
        for _ in range(3):
            exchange = await begun(pool)
            head, framing = await exchange.response(WITHIN_S)
            assert (head.status, framing) == (200, Framing(BodyKind.LENGTH, 4))
            assert await body_of(exchange) == b"body"
            assert await exchange.read(WITHIN_S) is None
            exchange.finish()
            exchange.close()
            assert pool.counts() == IDLE
        assert upstream.received == [GET * 3]


async def test_a_response_that_is_read_late():
    """Its connection is free as soon as the upstream has sent all: a slow client holds only what is queued for it."""
    async with scene(always(ok(b"body"))) as (_, pool):
        exchange = await begun(pool)
        await exchange.response(None)
        while pool.counts() != IDLE:
            await settle()
        other = await begun(pool)
        await other.response(None)
        assert await body_of(exchange) == b"body"
        assert await body_of(other) == b"body"


async def test_a_request_with_a_body():
    """It arrives as it was sent; `end_body` lets the connection serve again."""
    body = bytes(range(256)) * 4096
    async with scene(always(ok())) as (upstream, pool):
        for _ in range(2):
            exchange = await begun(pool, post(len(body)), body_expected=True)
            for at in range(0, len(body), 100_000):
                await exchange.send(body[at : at + 100_000])
            exchange.end_body()
            await exchange.response(WITHIN_S)
            assert await exchange.read(WITHIN_S) is None
        assert upstream.received == [(post(len(body)) + body) * 2]


async def test_an_upstream_that_does_not_read_the_request():
    """`send` waits, so that no more than a little is held; it goes on when the upstream does."""
    size, sent = 16 * MIB, 0

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(1)
        connection.stop_reading()
        await connection.stall()
        connection.read_again()
        await connection.request()
        connection.send(ok())

    async with scene(script, receive_buffer=64 * KIB) as (upstream, pool):
        exchange = await begun(pool, post(size), body_expected=True)
        tasks = Tasks()

        async def pump() -> None:
            nonlocal sent
            while sent < size:
                await exchange.send(bytes(64 * KIB), timeout_s=WITHIN_S)
                sent += 64 * KIB
            exchange.end_body()

        pumping = tasks.start(pump(), name="pump")
        await upstream.until(lambda: upstream.stalled == 1)
        await settle()
        held_at = sent
        await settle()
        assert sent == held_at < size
        upstream.go_on()
        await pumping
        assert (await exchange.response(WITHIN_S))[0].status == 200
        assert len(upstream.received[0]) == size + len(post(size))


async def test_an_upstream_that_sends_more_than_is_read():
    """It is held back: nearly nothing is queued; read on, all of it comes."""
    size = 32 * MIB
    written: list[int] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            await connection.send_flowing(b"x" * MIB)
            written.append(MIB)

    async with scene(script) as (_, pool):
        exchange = await begun(pool)
        await exchange.response(WITHIN_S)
        for _ in range(20):
            await settle()
        assert exchange._queued < 1 * MIB
        assert sum(written) < size
        assert len(await body_of(exchange)) == size
        assert pool.counts() == IDLE


async def test_interim_responses():
    """Each is told in order, before `response` returns; without a listener they are passed over."""
    told: list[int] = []

    async def tell(head: ResponseHead) -> None:
        await settle()
        told.append(head.status)

    answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok(b"x")
    async with scene(always(answer)) as (_, pool):
        exchange = await begun(pool, on_informational=tell)
        assert (await exchange.response(WITHIN_S))[0].status == 200
        assert told == [103, 102]
        assert await body_of(exchange) == b"x"

        exchange = await begun(pool)
        assert (await exchange.response(WITHIN_S))[0].status == 200


# ---- what fails


async def test_a_response_that_does_not_come():
    """The time to first byte ends the exchange, and its place is free."""
    async with scene() as (upstream, pool):
        exchange = await begun(pool)
        assert await fails(exchange.response(0.02)) == (ErrorType.HTTP_RESPONSE_TIMEOUT, Side.UPSTREAM, Retry.NEVER)
        assert pool.counts() == NONE
        await upstream.connections[0].ended()


async def test_interim_responses_do_not_put_off_the_deadline():
    """The time to first byte is that of the final response."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        for _ in range(10):
            connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await connection.stall()

    async def tell(_: ResponseHead) -> None:
        upstream.go_on()

    async with scene(script) as (upstream, pool):
        exchange = await begun(pool, on_informational=tell)
        assert (await fails(exchange.response(0.05)))[0] is ErrorType.HTTP_RESPONSE_TIMEOUT


async def test_a_body_that_stalls():
    """The idle time ends the exchange; what had come before was read."""
    async with scene(always(ok(b"body")[:-2])) as (_, pool):
        exchange = await begun(pool)
        await exchange.response(WITHIN_S)
        assert await exchange.read(WITHIN_S) == b"bo"
        assert await fails(exchange.read(0.02)) == (ErrorType.CONNECTION_READ_TIMEOUT, Side.UPSTREAM, Retry.NEVER)
        assert pool.counts() == NONE


async def test_a_request_that_stalls():
    """The write time ends the exchange, also for whoever awaits the response."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(1)
        connection.stop_reading()

    async with scene(script, receive_buffer=4 * KIB) as (_, pool):
        exchange = await begun(pool, post(64 * MIB), body_expected=True)
        waiting = Tasks().start(exchange.response(None), name="waits")
        await settle()
        assert (await fails(exchange.send(bytes(64 * MIB), timeout_s=0.05)))[0] is ErrorType.CONNECTION_WRITE_TIMEOUT
        assert (await fails(waiting))[0] is ErrorType.CONNECTION_WRITE_TIMEOUT
        assert pool.counts() == NONE


async def test_a_response_that_is_cut_off():
    """What came of it can be read; its end is a failure, never an end."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(ok(b"0123456789")[:-1])
        connection.close()

    async with scene(script) as (_, pool):
        exchange = await begun(pool)
        await exchange.response(WITHIN_S)
        while pool.counts() != NONE:
            await settle()
        assert await exchange.read(WITHIN_S) == b"012345678"
        incomplete = (ErrorType.HTTP_RESPONSE_INCOMPLETE, Side.UPSTREAM, Retry.NEVER)
        assert await fails(exchange.read(WITHIN_S)) == incomplete
        assert await fails(exchange.read(WITHIN_S)) == incomplete


@pytest.mark.parametrize("reused", [False, True])
async def test_a_connection_that_closes_before_the_response(reused: bool):
    """The failure says whether the request may be sent again."""

    async def script(connection: ScriptedConnection) -> None:
        if reused:
            await connection.request()
            connection.send(ok())
        await connection.request()
        connection.close()

    async with scene(script) as (_, pool):
        if reused:
            await (await begun(pool)).response(WITHIN_S)
        exchange = await begun(pool)
        error = await fails(exchange.response(WITHIN_S))
        retry = Retry.REUSED_CONNECTION if reused else Retry.NEVER
        assert error == (ErrorType.CONNECTION_TERMINATED, Side.UPSTREAM, retry)
        assert pool.counts() == NONE


async def test_a_connection_that_closes_between_open_and_start():
    """Nothing was sent, and the failure says so."""
    async with scene() as (upstream, pool):
        exchange = await opened(pool)
        (await upstream.connection()).close()
        while pool.counts() != NONE:
            await settle()
        with pytest.raises(GatewayError) as caught:
            exchange.start(GET, method=b"GET", body_expected=False)
        assert caught.value.retry is Retry.NOTHING_SENT
        assert (await fails(exchange.response(WITHIN_S)))[2] is Retry.NOTHING_SENT
        exchange.close()
        assert upstream.received == [b""]


async def test_a_connection_that_cannot_be_had():
    """`open` fails, and `close` has nothing to do."""
    async with scene() as (upstream, _):
        unused, upstream.port = upstream.port, 1
        pool = Pools().get(PoolKey(origin=Origin("http", "127.0.0.1", upstream.port)))
        exchange = Exchange(pool)
        error = await fails(exchange.open(connect_timeout_s=WITHIN_S))
        exchange.close()
        assert error == (ErrorType.CONNECTION_REFUSED, Side.UPSTREAM, Retry.NOTHING_SENT)
        assert unused != upstream.port


async def test_an_answer_before_the_request_is_whole():
    """It is delivered; what is still sent of the request fails, and the connection never serves again."""
    async with scene(early(ok(b"no", status=b"413 Content Too Large"))) as (upstream, pool):
        exchange = await begun(pool, post(100), body_expected=True)
        await exchange.send(b"x")
        assert (await exchange.response(WITHIN_S))[0].status == 413
        assert await body_of(exchange) == b"no"
        assert (await fails(exchange.send(b"x")))[0] is ErrorType.CONNECTION_TERMINATED
        exchange.end_body()
        exchange.finish()
        assert pool.counts() == NONE
        await upstream.connections[0].ended()
        assert len(upstream.connections) == 1


async def test_an_early_answer_while_send_waits():
    """`send` is let go, with a failure: the upstream wants no more."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(1)
        connection.stop_reading()
        await connection.stall()
        connection.send(ok(b"enough"))

    async with scene(script, receive_buffer=4 * KIB) as (upstream, pool):
        exchange = await begun(pool, post(64 * MIB), body_expected=True)
        sending = Tasks().start(exchange.send(bytes(64 * MIB)), name="sends")
        await settle()
        assert not sending.done()
        upstream.go_on()
        assert (await exchange.response(WITHIN_S))[0].status == 200
        assert await body_of(exchange) == b"enough"
        await asyncio.wait([sending])
        assert (await fails(exchange.send(b"x")))[0] is ErrorType.CONNECTION_TERMINATED
        assert pool.counts() == NONE


# ---- giving up


Step = Callable[[Exchange, ScriptedUpstream], Awaitable[object]]


@pytest.mark.parametrize("step", ["opening", "before start", "response", "read", "send", "informational", "half read"])
@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_an_exchange_that_is_given_up(step: str, how: str):
    """Wherever it is, by cancellation or by `close`: the connection is gone, its place free, nothing completed.

    One on which nothing was sent yet is idle again.
    """

    async def script(connection: ScriptedConnection) -> None:
        if step == "send":
            await connection.received_octets(1)
            connection.stop_reading()
            return
        await connection.head()
        if step == "informational":
            connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        if step in {"read", "half read"}:
            connection.send(ok(b"body")[:-1])

    async def never(_: ResponseHead) -> None:
        await asyncio.get_running_loop().create_future()

    async def run(exchange: Exchange) -> None:
        await exchange.open(connect_timeout_s=WITHIN_S)
        if step == "before start":
            await asyncio.get_running_loop().create_future()
        if step == "send":
            exchange.start(post(64 * MIB), method=b"POST", body_expected=True)
            await exchange.send(bytes(64 * MIB))
        exchange.start(GET, method=b"GET", body_expected=False)
        await exchange.response(None)
        await exchange.read(None)
        if step == "half read":
            await asyncio.get_running_loop().create_future()
        await exchange.read(None)

    async with scene(script, receive_buffer=4 * KIB, max_connections=1) as (upstream, pool):
        exchange = Exchange(pool, on_informational=never)
        running = Tasks().start(run(exchange), name="runs")
        if step == "opening":
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, in which it begins to connect
        else:
            await upstream.until(
                lambda: (bool(upstream.connections) and upstream.connections[0].script_over) or step == "before start"
            )
            async with asyncio.timeout(WITHIN_S):
                while step == "before start" and not pool.counts().busy:
                    await settle()
            for _ in range(5):
                await settle()
        assert not running.done()
        if how == "closed":
            exchange.close()
            exchange.close()
        running.cancel()
        await asyncio.wait([running])
        if step in {"before start", "half read"}:
            exchange.close()  # as its user does, who was cancelled outside of it

        assert pool.counts() == (IDLE if step == "before start" else NONE)
        await upstream.until(lambda: upstream.open == 0 or step in {"before start", "send"})
        again = await opened(pool)
        assert pool.counts() == BUSY
        again.close()
        assert len(upstream.connections) <= (1 if step == "before start" else 2)


async def test_a_cancelled_send_while_the_response_is_awaited():
    """The exchange goes on for whoever awaits the response; the connection does not serve again."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(1)
        connection.stop_reading()
        await connection.stall()
        connection.send(ok(b"anyway"))

    async with scene(script, receive_buffer=4 * KIB) as (upstream, pool):
        exchange = await begun(pool, post(64 * MIB), body_expected=True)
        tasks = Tasks()
        sending = tasks.start(exchange.send(bytes(64 * MIB)), name="sends")
        waiting = tasks.start(exchange.response(WITHIN_S), name="waits")
        await settle()
        sending.cancel()
        await settle()
        upstream.go_on()
        assert (await waiting)[0].status == 200
        assert await body_of(exchange) == b"anyway"
        assert pool.counts() == NONE


async def test_an_exchange_that_is_closed_while_another_task_awaits_it():
    """Whoever waits is told at once, and not that the upstream has failed."""
    async with scene() as (_, pool):
        exchange = await begun(pool)
        waiting = Tasks().start(exchange.response(None), name="waits")
        await settle()
        exchange.close()
        assert (await fails(waiting))[:2] == (ErrorType.CONNECTION_TERMINATED, Side.GATEWAY)


async def test_an_exchange_that_is_closed_while_it_opens():
    """The connection, once it is there, goes back unused."""
    async with scene() as (_, pool):
        exchange = Exchange(pool)
        opening = Tasks().start(exchange.open(connect_timeout_s=WITHIN_S), name="opens")
        await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
        exchange.close()
        assert (await fails(opening))[1] is Side.GATEWAY
        assert pool.counts() == IDLE
