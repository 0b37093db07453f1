"""Either end breaks, stalls or says too much at the worst moment: nothing is leaked, nobody else waits for it."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.gateway import relay
from proxy.gateway.phase import RETURNING
from proxy.tasks import Tasks
from tests.support.both_loops import on_both_loops
from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.gateway import RunningGateway, Taken
from tests.support.raw_client import RawClient, ask
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok, silent

CLOCK = SystemClock()


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await CLOCK.sleep(0.01)


async def nothing_left(gateway: RunningGateway) -> None:
    """Waits until no request and no connection of a client is under way, and none to an upstream is busy."""
    await until(lambda: not len(gateway.gateway.server._handler.traffic))
    samples = await gateway.samples()
    flights = {key: value for key, value in samples.items() if "in_flight" in key[0]}
    assert not any(flights.values()), flights
    busy = [value for key, value in samples.items() if "upstream_connections" in key[0] and ("state", "busy") in key[1]]
    assert not any(busy), busy


async def counted(gateway: RunningGateway) -> list[tuple[tuple[tuple[str, str], ...], float]]:
    """Returns the requests counted so far, by labels."""
    samples = await gateway.samples()
    return [(labels, value) for (name, labels), value in samples.items() if name == "bearer_proxy_http_requests_total"]


def resetting(client: RawClient) -> None:
    """Resets a client's connection at once."""
    raw = client.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


# ---- what the operator's own files make of a head


@pytest.mark.parametrize("fields", ["set_request_headers", "set_response_headers"])
@pytest.mark.parametrize("body", [b"", b"a body"])
@on_both_loops
async def test_a_value_file_that_no_field_can_hold(
    tmp_path: Path, fields: str, body: bytes, caplog: pytest.LogCaptureFixture
):
    """A plain 500, counted and logged once and without the value; the next request is served when the file is mended."""
    caplog.set_level(logging.INFO)
    file = tmp_path / "value"
    file.write_text("first")
    async with (
        ScriptedUpstream(always(ok(b"a body"))) as upstream,
        in_front_of(upstream.port, tmp_path, route=f"{fields}: {{X-Key: {{value_file: {file}}}}}") as gateway,
    ):
        async with connected(gateway.port) as client:
            await client.send(request(b"POST", body=body))
            assert 200 == (await client.answer()).status
            file.write_text("qq-one\nqq-two")
            await client.send(request(b"POST", body=body))
            assert 500 == (await client.answer()).status
        file.write_text("third")
        assert 200 == (await ask(gateway.port, request())).status
        await nothing_left(gateway)
        assert [1] == [value for name, value in await counted(gateway) if ("code", "500") in name]
    assert "qq-" not in caplog.text
    assert "Traceback" not in caplog.text


# ---- both ends at once


@pytest.mark.parametrize("way", ["401", "closed"])
@on_both_loops
async def test_a_client_that_is_reset_as_its_request_fails(tmp_path: Path, way: str):
    """Whichever is heard first, the request is counted once, and holds no connection to the upstream."""
    async with (
        ScriptedUpstream(answering(ok()), silent) as upstream,
        in_front_of(upstream.port, tmp_path, route=f"{ONE_TRY}\npool: {{reuse: false}}") as gateway,
    ):
        assert 200 == (await ask(gateway.port, request())).status
        for number in range(1, 6):
            client = await RawClient.connect(gateway.port)
            await client.send(request())
            connection = await upstream.connection(number)
            await connection.head()
            resetting(client)
            if way == "401":
                connection.send(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n")
            else:
                connection.cut()
            await client.close()
        await nothing_left(gateway)
        assert 6 == sum(value for _, value in await counted(gateway))


# ---- clients that do not read


@on_both_loops
async def test_who_sends_on_and_does_not_read(tmp_path: Path):
    """Octets of requests to come are no sign that the answer is taken."""
    big = ok(b"x" * 20_000_000)
    async with (
        ScriptedUpstream(always(big)) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {write_idle_timeout: 1s}") as gateway,
        connected(gateway.port) as client,
    ):
        await ask(gateway.port, request())
        client.writer.transport.pause_reading()
        await client.send(request())
        async with asyncio.timeout(10):
            await dripping(client)
        await nothing_left(gateway)


@on_both_loops
async def test_a_slow_reader_and_the_total_time(tmp_path: Path):
    """The total time ends an answer however its client takes it."""
    big = ok(b"x" * 50_000_000)
    async with (
        ScriptedUpstream(always(big)) as upstream,
        in_front_of(upstream.port, tmp_path, route="timeouts: {total: 1s}") as gateway,
    ):
        await ask(gateway.port, request(b"HEAD"))
        async with sipping(gateway.port) as taken:
            await until(lambda: taken and not len(gateway.gateway.server._handler.traffic), 10)
        await nothing_left(gateway)


@on_both_loops
async def test_slow_readers_that_hold_every_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody is hurried while there is room; as soon as another request waits, a slow one makes room."""
    monkeypatch.setattr(relay, "SLOW_START_S", 0.5)
    monkeypatch.setattr(relay, "MIN_RATE", 1_000_000_000)  # whatever the system's buffers have taken is too little
    monkeypatch.setattr(relay, "_PACE_LOOK_S", 0.1)
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50_000_000

    async def sized(connection: ScriptedConnection) -> None:
        while True:
            connection.send(ok() if b"HEAD" in await connection.request() else big)

    async with (
        ScriptedUpstream(sized) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {max_connections: 2}") as gateway,
    ):
        assert 200 == (await ask(gateway.port, request(b"HEAD"))).status
        async with sipping(gateway.port) as first, sipping(gateway.port) as second:
            await until(lambda: first and second)
            await CLOCK.sleep(1.5)
            assert 2 == len(gateway.gateway.server._handler.traffic)
            async with asyncio.timeout(20):
                assert 200 == (await ask(gateway.port, request(b"HEAD"))).status
        await nothing_left(gateway)


@asynccontextmanager
async def sipping(port: int) -> AsyncIterator[list[bytes]]:
    """Asks, and takes the answer a little at a time; yields what has come of it."""
    taken: list[bytes] = []
    tasks = Tasks()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        client.sendall(request())

        async def sip() -> None:
            loop = asyncio.get_running_loop()
            while data := await loop.sock_recv(client, 1000):
                taken.append(data)
                await CLOCK.sleep(0.05)

        tasks.start(sip(), name="sip")
        try:
            yield taken
        finally:
            await tasks.stop()


async def dripping(client: RawClient) -> None:
    """Sends an octet now and then, until it may not any more."""
    with suppress(ConnectionError):
        while True:
            await client.send(b"G")
            await CLOCK.sleep(0.1)


# ---- bodies both ways at once


@on_both_loops
async def test_an_answer_that_goes_on_with_the_body(tmp_path: Path):
    """An upstream that answers each part of a request's body as it comes is heard, and hears on."""

    async def echoing(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(1, 6):
            await connection.until(lambda n=number: connection.received.endswith(b"part%d" % n))
            connection.send(b"5\r\npart%d\r\n" % number)
        connection.send(b"0\r\n\r\n")

    async with (
        ScriptedUpstream(answering(ok()), echoing) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {reuse: false}") as gateway,
        connected(gateway.port) as client,
    ):
        assert 200 == (await ask(gateway.port, request())).status
        async with asyncio.timeout(10):
            await client.send(request(b"POST", b"/", b"Content-Length: 25"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            for number in range(1, 6):
                await client.send(b"part%d" % number)
                await client.reader.readuntil(b"part%d\r\n" % number)
            assert b"0\r\n\r\n" == await client.reader.readexactly(5)


# ---- what follows on a connection


@on_both_loops
async def test_a_client_that_ends_its_sending_behind_a_request_of_another_kind(tmp_path: Path):
    """It gets both answers, and then the connection's end: it is not kept for requests that cannot come."""
    async with (
        ScriptedUpstream(always(ok(b"a body"))) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        assert 200 == (await ask(gateway.port, request())).status
        await client.send(request() + request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")
        client.writer.write_eof()
        assert [200, 200] == [(await client.answer()).status for _ in range(2)]
        async with asyncio.timeout(10):
            assert await client.closed()


# ---- flow control


@on_both_loops
async def test_a_last_chunk_that_is_more_than_the_client_takes(tmp_path: Path):
    """The connection that it came on serves the next client: nobody holds it back any more."""
    if not Taken.direct:
        pytest.skip("there, nobody holds a connection back whose answer is whole")

    async def endless(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(ok())
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1312d00\r\n%b\r\n" % (b"x" * 20_000_000))
        await connection.stall()
        connection.send(b"0\r\n\r\n")
        await connection.request()
        connection.send(ok())

    async with (
        ScriptedUpstream(endless) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {max_connections: 1}") as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request())
        assert 200 == (await client.answer()).status
        (kept,) = gateway.gateway.server._direct.connections
        kept.transport.set_write_buffer_limits(high=1_000_000_000)
        client.writer.transport.pause_reading()
        await client.send(request())
        await until(lambda: kept._exchange._octets_out == 20_000_000)
        kept.transport.set_write_buffer_limits(high=kept.transport.get_write_buffer_size() + 2)
        upstream.go_on()
        async with asyncio.timeout(10):
            assert 200 == (await ask(gateway.port, request())).status


@on_both_loops
async def test_a_drain_ends_with_a_request_that_waits_for_its_client_to_read(tmp_path: Path):
    """It is of another kind, and the connection changes hands only when the last answer is written: it was cut off."""
    if not Taken.direct:
        pytest.skip("there, a connection never changes hands")

    async def large(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(ok())
        await connection.request()
        connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1312d00\r\n%b\r\n0\r\n\r\n" % (b"x" * 20_000_000)
        )

    async with (
        ScriptedUpstream(large) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request())
        assert 200 == (await client.answer()).status
        server = gateway.gateway.server
        (kept,) = server._direct.connections
        kept.transport.set_write_buffer_limits(high=1_000_000_000)
        client.writer.transport.pause_reading()
        await client.send(request())
        await until(lambda: len(upstream.connections[0].requests) == 2 and kept.idle)
        await client.send(request(b"POST", b"/", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")
        await until(lambda: kept._phase is RETURNING)
        tasks = Tasks()
        stopping = tasks.start(server.drain(3600), name="drain")
        await CLOCK.sleep(0.05)
        gateway.gateway.hurry()
        assert not await stopping
