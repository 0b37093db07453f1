"""Limits met from outside: the excess is refused with its status, nobody holds a place for free, others are served."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from proxy.gateway import front, general, lingering, relay
from proxy.tasks import Tasks
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.raw_client import RawClient, ask
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always

CLOCK = SystemClock()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FOREIGN = b"Origin: https://evil.example"


async def until(condition, within_s: float = 20.0) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await CLOCK.sleep(0.01)


# ---- reading on after an early answer


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes lingering short, so that a test need not wait for its bounds."""
    for module in (lingering, general):
        monkeypatch.setattr(module, "IDLE_S", 0.5)
        monkeypatch.setattr(module, "TOTAL_S", 2.0)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("refused_by", ["the first head", "a later head", "the rules"])
@on_both_loops
async def test_a_client_that_uploads_all_before_it_reads(tmp_path: Path, refused_by: str):
    """Its early answer is not lost to a reset, however long the upload takes beyond one idle time."""
    body = b"x" * 40_000
    head = request(b"POST", b"/", b"Content-Length: %d" % (40 * len(body)), FOREIGN)
    if refused_by != "the rules":
        head = head.replace(b"Host: localhost", b"Host : localhost")
    async with in_front_of(1, tmp_path) as gateway, connected(gateway.port) as client:
        if refused_by == "a later head":
            await client.send(request(b"GET", b"/", FOREIGN))
            assert 403 == (await client.answer()).status
        await client.send(head)
        for _ in range(40):
            await client.send(body)
            await CLOCK.sleep(0.03)
        answer = await client.answer()
        assert (403 if refused_by == "the rules" else 400, b"close") == (answer.status, answer.field(b"Connection"))


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("refused_by", ["the first head", "the rules"])
@on_both_loops
async def test_who_drips_after_an_early_answer(tmp_path: Path, refused_by: str):
    """Octets keep the connection only for a bounded time."""
    head = request(b"POST", b"/", b"Content-Length: 100000", FOREIGN)
    if refused_by != "the rules":
        head = head.replace(b"Host: localhost", b"Host : localhost")
    async with in_front_of(1, tmp_path) as gateway, connected(gateway.port) as client:
        await client.send(head)
        await client.answer()
        async with asyncio.timeout(20):
            await dripping(client)
        await until(lambda: not gateway.gateway.server.open_connections)


@pytest.mark.usefixtures("_hasty")
@on_both_loops
async def test_who_uploads_much_after_an_early_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Octets beyond the bound end it before its time."""
    for module in (lingering, general):
        monkeypatch.setattr(module, "MAX_OCTETS", 1_000_000)
        monkeypatch.setattr(module, "TOTAL_S", 60.0)
    async with in_front_of(1, tmp_path) as gateway, connected(gateway.port) as client:
        await client.send(request(b"POST", b"/", b"Content-Length: 100000000", FOREIGN))
        with pytest.raises(ConnectionError):
            await client.send(b"x" * 50_000_000)


# ---- places


@on_both_loops
async def test_answers_that_nobody_reads_to_their_end(tmp_path: Path):
    """A closing connection keeps its place only while its client takes something of what is left.

    One of these sizes fills the system's buffer and leaves a little in ours, so that the gateway has no reason to wait
    before it closes, and something to send after it.
    """
    path = tmp_path / "gateway.sock"
    sizes = [100_000 + 8_000 * step for step in range(40)]

    async def sized(connection: ScriptedConnection) -> None:
        while True:
            size = int((await connection.request()).split(b" ")[1][1:])
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    top = "limits: {write_idle_timeout: 1s}"
    async with (
        ScriptedUpstream(sized) as upstream,
        in_front_of(upstream.port, tmp_path, top=top, listen=f"unix:{path}") as gateway,
    ):
        clients = [socket.socket(socket.AF_UNIX) for _ in sizes]  # kept: each is open until the test is over
        for client, size in zip(clients, sizes, strict=True):
            client.connect(str(path))
            client.sendall(request(b"GET", b"/%d" % size, b"Connection: close"))
        await until(lambda: upstream.connections and sum(len(c.requests) for c in upstream.connections) == len(sizes))
        await until(lambda: not gateway.gateway.server.open_connections)
        for client in clients:
            client.close()


async def test_a_flood_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who is turned away has no place, so no more are being told so at a time than may be; the rest is closed."""
    monkeypatch.setattr(front, "_MAX_TURNED_AWAY", 3)
    async with in_front_of(1, tmp_path, top="limits: {connections: 1}") as gateway, connected(gateway.port) as first:
        await first.send(b"GET /")
        await until(lambda: gateway.gateway.server.open_connections == 1)
        told = [await RawClient.connect(gateway.port) for _ in range(3)]
        assert [503] * 3 == [(await client.answer()).status for client in told]
        async with connected(gateway.port) as more:
            assert await more.closed()
        for client in told:
            await client.close()
        await first.close()
        await until(lambda: not gateway.gateway.server.open_connections)
        assert 403 == (await ask(gateway.port, request(b"GET", b"/", FOREIGN))).status


@pytest.mark.skipif(os.geteuid() != 0, reason="sets limits of a process that is closed to others")
async def test_too_few_descriptors(tmp_path: Path):
    """Running out of them while accepting neither ends the gateway nor makes it spin; the next are served again."""
    async with (
        DemoServers(clock=CLOCK) as servers,
        program.serving(
            "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", cwd=tmp_path, env=servers.settings()
        ) as serving,
    ):
        assert 200 == (await ask(serving.port, request(b"GET", b"/orders"))).status
        process = serving.process.pid
        used = len(list(Path(f"/proc/{process}/fd").iterdir()))
        limit = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (used + 5, limit[1]))
        clients = [await RawClient.connect(serving.port) for _ in range(30)]
        before_s = cpu_s(process)
        await CLOCK.sleep(2)
        assert cpu_s(process) - before_s < 1
        for client in clients:
            await client.close()
        resource.prlimit(process, resource.RLIMIT_NOFILE, limit)
        async with asyncio.timeout(20):
            assert 200 == (await ask(serving.port, request(b"GET", b"/orders"))).status
        ended = await serving.stop()
    assert 0 == ended.code
    assert "Traceback" not in ended.err


def cpu_s(process: int) -> float:
    """Returns the processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- connections to the upstream


async def test_more_requests_than_may_wait(tmp_path: Path):
    """With all connections busy, one waits for as long as it may; one more gets 503 at once. Both are told when to retry."""

    async def holding(connection: ScriptedConnection) -> None:
        await connection.request()

    route = "pool: {max_connections: 1, max_pending: 1, pending_timeout: 1s}"
    async with ScriptedUpstream(holding) as upstream, in_front_of(upstream.port, tmp_path, route=route) as gateway:
        async with connected(gateway.port) as busy, connected(gateway.port) as waiting:
            await busy.send(request())
            await until(lambda: upstream.connections and upstream.connections[0].requests)
            await waiting.send(request())
            await CLOCK.sleep(0.2)
            for answer in (await ask(gateway.port, request()), await waiting.answer()):
                assert (503, b"1") == (answer.status, answer.field(b"Retry-After"))
        assert 2 == await gateway.sample("bearer_proxy_requests_refused_total", reason="overloaded")


@pytest.mark.parametrize("speed", ["silent", "dripping"])
@on_both_loops
async def test_slow_uploads_that_hold_every_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: str):
    """Nobody is hurried while there is room; as soon as another request waits, slow ones make room (408)."""
    monkeypatch.setattr(relay, "SLOW_START_S", 0.5)
    monkeypatch.setattr(relay, "_PACE_LOOK_S", 0.1)
    upload = request(b"POST", b"/", b"Content-Length: 1000000")
    route = "pool: {max_connections: 3}"
    async with ScriptedUpstream(always(OK)) as upstream, in_front_of(upstream.port, tmp_path, route=route) as gateway:
        slow = [await RawClient.connect(gateway.port) for _ in range(3)]
        for client in slow:
            await client.send(upload + b"x")
        await until(lambda: len(upstream.connections) == 3)
        tasks = Tasks()
        if speed == "dripping":
            for client in slow:
                tasks.start(dripping(client), name="drip")
        await CLOCK.sleep(1)
        assert not any(connection.eof or connection.lost for connection in upstream.connections)
        async with asyncio.timeout(20):
            assert 200 == (await ask(gateway.port, request())).status
        assert 1 <= await gateway.sample("bearer_proxy_requests_refused_total", reason="request-timeout")
        await tasks.stop()
        for client in slow:
            await client.close()


@on_both_loops
async def test_a_fast_enough_upload_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It keeps its connection to the end; who waits for it is refused in the end."""
    monkeypatch.setattr(relay, "SLOW_START_S", 0.2)
    monkeypatch.setattr(relay, "_PACE_LOOK_S", 0.05)
    route = "pool: {max_connections: 1, pending_timeout: 1s}"
    async with (
        ScriptedUpstream(always(OK)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(b"POST", b"/", b"Content-Length: 40000") + b"x" * 20_000)
        await until(lambda: len(upstream.connections) == 1)
        waiting = await RawClient.connect(gateway.port)
        await waiting.send(request())
        for _ in range(20):
            await client.send(b"x" * 1000)
            await CLOCK.sleep(0.1)
        assert 200 == (await client.answer()).status
        assert 503 == (await waiting.answer()).status
        await waiting.close()


async def dripping(client: RawClient) -> None:
    """Sends an octet now and then, until it may not any more."""
    try:
        while True:
            await client.send(b"x")
            await CLOCK.sleep(0.1)
    except ConnectionError:
        pass
