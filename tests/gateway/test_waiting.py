"""Requests that wait for a connection to the upstream: their order, their ends, and what their waiting costs."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Self

import proxy
from proxy.tasks import Tasks
from proxy.transports import reset
from proxy.upstream.pool import Pool
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import until
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import RunningGateway, Taken
from tests.support.raw_client import RawClient, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, ok

ONE = "pool: {max_connections: 1}"
MANY = "pool: {max_connections: 1, max_pending: 2000, pending_timeout: 60s}"
PROXY = str(Path(proxy.__file__).parent)


async def held_once(connection: ScriptedConnection) -> None:
    """Holds its first request back until it may go on; answers each with its target."""
    await answer_next(connection, hold=True)
    while True:
        await answer_next(connection)


async def answer_next(connection: ScriptedConnection, *, hold: bool = False) -> None:
    asked = await connection.request()
    if hold:
        await connection.stall()
    connection.send(ok(asked.split(b" ")[1]))


def pool_of(gateway: RunningGateway) -> Pool:
    return gateway.gateway.snapshot.plans["all"].pool


@asynccontextmanager
async def queue(gateway: RunningGateway, upstream: ScriptedUpstream, size: int) -> AsyncIterator[list[RawClient]]:
    """Has so many clients wait, one behind the other, for the only connection, which another one's request holds."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(gateway.port)) for _ in range(size + 1)]
        before = upstream.stalled
        await clients[0].send(request(b"GET", b"/first"))
        await upstream.until(lambda: upstream.stalled == before + 1)
        pool = pool_of(gateway)
        for number, client in enumerate(clients[1:], 1):
            await client.send(request(b"GET", b"/%d" % number))
            await until(lambda number=number: pool.pending == number)  # type: ignore[misc]
        yield clients


def asked(upstream: ScriptedUpstream) -> list[bytes]:
    """Returns the targets that were asked for, in order."""
    return [target for octets in upstream.received for target in re.findall(rb"GET (\S+) HTTP", octets)]


@on_both_loops
async def test_the_order_of_service(tmp_path: Path):
    """First come, first served, each with its own answer, on the one connection there is."""
    async with (
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        queue(gateway, upstream, 20) as clients,
    ):
        upstream.go_on()
        answers = [(await client.answer()).body for client in clients]
        assert [b"/first", *(b"/%d" % number for number in range(1, 21))] == answers == asked(upstream)
        assert 1 == len(upstream.connections)


@on_both_loops
async def test_clients_that_send_their_next_request_at_once(tmp_path: Path):
    """Nobody is served twice before another is served once, pipelined requests included."""
    async with (
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        queue(gateway, upstream, 3) as clients,
    ):
        for number, client in enumerate(clients):
            await client.send(request(b"GET", b"/again/%d" % number))
        upstream.go_on()
        for client in clients:
            await client.answer()
        assert [b"/again/%d" % number for number in range(4)] == [(await client.answer()).body for client in clients]
        assert {b"/first", b"/1", b"/2", b"/3"} == set(asked(upstream)[:4])


@on_both_loops
async def test_clients_that_leave_while_they_wait(tmp_path: Path):
    """They leave the queue at once; nothing is sent for them, and those behind them move up."""
    async with (
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        queue(gateway, upstream, 4) as clients,
    ):
        pool = pool_of(gateway)
        for client in (clients[1], clients[3]):
            reset(client.writer.transport)
        await until(lambda: pool.pending == 2)
        upstream.go_on()
        assert [b"/first", b"/2", b"/4"] == [(await clients[number].answer()).body for number in (0, 2, 4)]
        assert [b"/first", b"/2", b"/4"] == asked(upstream)
        await until(lambda: not len(gateway.gateway.server._handler.traffic))
        assert (0, 1, 0) == (pool.counts().connecting, pool.counts().idle, pool.counts().busy)
        assert 2 == await gateway.sample("bearer_proxy_http_requests_total", route="all", method="GET", code="499")


@on_both_loops
async def test_a_client_that_leaves_while_its_connection_is_opened(tmp_path: Path):
    """Its place is free again, whenever it leaves."""
    async with ScriptedUpstream(always(ok(b"fine"))) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        pool = pool_of(gateway)
        for turns in range(8):
            async with connected(gateway.port) as client:
                await client.send(request())
                await until(lambda: pool.counts().connecting or pool.counts().busy or pool.counts().idle)
                for _ in range(turns):
                    await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop
            await until(lambda: not len(gateway.gateway.server._handler.traffic))
            await until(lambda: not pool.counts().connecting and not pool.counts().busy)


@on_both_loops
async def test_bodies_of_requests_that_wait(tmp_path: Path):
    """They reach the upstream whole: what came before their turn, and what comes behind it."""

    async def echoing(connection: ScriptedConnection) -> None:
        await connection.request()
        await connection.stall()
        connection.send(ok(b"first"))
        while True:
            connection.send(ok((await connection.request()).partition(b"\r\n\r\n")[2]))

    async with (
        ScriptedUpstream(echoing) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        connected(gateway.port) as first,
        connected(gateway.port) as whole,
        connected(gateway.port) as half,
        connected(gateway.port) as large,
    ):
        pool = pool_of(gateway)
        await first.send(request())
        await upstream.until(lambda: upstream.stalled == 1)
        await whole.send(request(b"POST", body=b"whole"))
        await until(lambda: pool.pending == 1)
        await half.send(request(b"POST", b"/", b"Content-Length: 10") + b"first")
        await until(lambda: pool.pending == 2)
        much = bytes(range(256)) * 2000
        tasks = Tasks()
        tasks.start(large.send(request(b"POST", body=much)), name="a body that is held back")
        await until(lambda: pool.pending == 3)
        upstream.go_on()
        assert [b"first", b"whole"] == [(await client.answer()).body for client in (first, whole)]
        await half.send(b"+rest")
        assert b"first+rest" == (await half.answer()).body
        assert much == (await large.answer()).body
        await tasks.stop()


@on_both_loops
async def test_many_tokens_that_run_out_while_their_requests_wait(tmp_path: Path):
    """None of them is sent: each request takes a newer one along."""
    server = ScriptedAuthorizationServer(default=token_reply("lasting"))
    server.script.append(token_reply("brief", expires_in=2))
    async with (
        server,
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, server=server, route=ONE) as gateway,
        queue(gateway, upstream, 30) as clients,
    ):
        await asyncio.sleep(2.1)  # noqa: TID251  # the token's life
        upstream.go_on()
        answers = {(await client.answer()).body for client in clients}
        assert {b"/first", *(b"/%d" % number for number in range(1, 31))} == answers
        tokens = re.findall(rb"Authorization: Bearer (\w+)", b"".join(upstream.received))
        assert [b"brief", *[b"lasting"] * 30] == tokens


@on_both_loops
async def test_the_time_to_the_first_octet_of_one_that_has_waited(tmp_path: Path):
    """It counts from when the request is sent, not from when it came."""

    async def slowly(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
        await connection.stall()
        connection.send(b"2")
        await connection.request()
        await connection.stall()
        connection.send(ok(b"in time"))

    route = f"{ONE}\ntimeouts: {{first_byte: 1s}}"
    async with (
        ScriptedUpstream(slowly) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as first,
        connected(gateway.port) as second,
    ):
        await first.send(request())
        await upstream.until(lambda: upstream.stalled == 1)
        await second.send(request())
        await asyncio.sleep(1.3)  # noqa: TID251  # more than the time to the first octet
        upstream.go_on()
        await upstream.until(lambda: upstream.stalled == 2)
        await asyncio.sleep(0.4)  # noqa: TID251  # less than that, but more than from one look to the next
        upstream.go_on()
        assert [b"12", b"in time"] == [(await client.answer()).body for client in (first, second)]


@on_both_loops
async def test_the_total_time_of_one_that_waits(tmp_path: Path):
    """It goes on while the request waits; over, the request leaves the queue."""
    route = f"{ONE}\ntimeouts: {{total: 1s}}"
    async with (
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        queue(gateway, upstream, 2) as clients,
    ):
        for client in clients[1:]:
            assert 504 == (await client.answer()).status
        assert 0 == pool_of(gateway).pending


@on_both_loops
async def test_draining_while_requests_wait(tmp_path: Path):
    """After the time for it, each is told 503 `draining`; nothing of them is sent."""
    async with (
        ScriptedUpstream(held_once) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        queue(gateway, upstream, 3) as clients,
    ):
        tasks = Tasks()
        stopping = tasks.start(gateway.gateway.stop(0.2), name="stop")
        for client in clients:
            answer = await client.answer()
            assert (503, "urn:bearer-proxy:problem:draining") == (answer.status, json.loads(answer.body)["type"])
        await stopping
        assert 0 == pool_of(gateway).pending
        assert [b"/first"] == asked(upstream)


@on_both_loops
async def test_a_connection_that_closes_with_each_answer(tmp_path: Path):
    """Those who wait open others, one behind the other: never more than may be open."""

    async def once(connection: ScriptedConnection) -> None:
        await answer_next(connection, hold=connection.index == 0)
        connection.close()

    async with (
        ScriptedUpstream(once) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE) as gateway,
        queue(gateway, upstream, 5) as clients,
    ):
        upstream.go_on()
        bodies = [(await client.answer()).body for client in clients]
        assert [b"/first", *(b"/%d" % number for number in range(1, 6))] == bodies
        assert [1] * 6 == [len(connection.requests) for connection in upstream.connections]


# ---- cost


class Calls:
    """Counts what the gateway's code calls while it is entered, but for the looks of timers that may fall in between."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    @property
    def count(self) -> int:
        return self.of.total()

    def _profile(self, frame: FrameType, event: str, function: object) -> None:
        ours = event in {"call", "c_call"} and _is_ours(frame)
        if (ours or (event == "call" and _is_ours(frame.f_back))) and not _within_a_look(frame):
            self.of[frame.f_code.co_name if event == "call" else getattr(function, "__name__", "")] += 1


def _is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(PROXY)


def _within_a_look(frame: FrameType | None) -> bool:
    while frame is not None and _is_ours(frame):
        if frame.f_code.co_name == "_look":
            return True
        frame = frame.f_back
    return False


@on_both_loops
async def test_one_request_costs_the_same_in_a_queue_of_any_length(tmp_path: Path):
    """Counted in calls: with 1, 100 or 1000 that wait; none of them has a task, a future or a timer on the direct path."""
    cost: dict[int, float] = {}
    async with (
        ScriptedUpstream(held_whenever) as upstream,
        in_front_of(upstream.port, tmp_path, route=MANY) as gateway,
    ):
        await ask(gateway.port, request())  # which gets the token, and opens the connection
        for size in (1, 1, 100, 1000):  # the first time, memos are filled
            async with queue(gateway, upstream, size) as clients:
                with Calls() as calls:
                    upstream.go_on()
                    for client in clients:
                        await client.answer()
                cost[size] = calls.count / size
                if Taken.direct and size > 1:  # a timer of the pool's or a token's may fall in between
                    dear = sum(calls.of[name] for name in ("create_task", "create_future", "call_later", "call_at"))
                    assert dear < size / 10, calls.of
    assert cost[1000] < 1.05 * cost[100]
    assert cost[100] < 1.05 * cost[1]


async def held_whenever(connection: ScriptedConnection) -> None:
    """Holds a request for `/first` back until it may go on; answers each with its target."""
    while True:
        octets = await connection.request()
        if b" /first " in octets:
            await connection.stall()
        connection.send(ok(octets.split(b" ")[1]))
