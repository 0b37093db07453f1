"""Bodies that flow, and clients that do not: backpressure, memory, disconnects, stalls, deadlines and caps.

The whole gateway over real sockets; for memory, as a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.tasks import Tasks
from proxy.units import KIB, MIB
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.bulk import WITHIN_S, BulkReader, BulkSender, resident_octets
from tests.support.fake_clock import until
from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.gateway import RunningGateway, simple_configuration
from tests.support.raw_client import Answer, RawClient, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok, silent

GET = request()
CHUNKED = b"Transfer-Encoding: chunked"


# ---- big bodies


class BulkTransfer:
    """One body from a sender to a reader, through a gateway that is between `client` and `upstream`."""

    def __init__(self, way: str, framing: str, *, size: int, stop_at: int) -> None:
        self.way = way
        self.sender = BulkSender(size, chunked=framing == "chunks")
        self.reader = BulkReader(size, stop_at, chunked=framing == "chunks")
        self.field = CHUNKED if framing == "chunks" else b"Content-Length: %d" % size

    def upstream(self, listener: socket.socket) -> None:
        """Serves one connection. Blocks."""
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(WITHIN_S)
            if self.way == "upload":
                self.reader.run(connection)
                connection.sendall(ok(b"got it"))
            else:
                assert connection.recv(64 * KIB).endswith(b"\r\n\r\n")
                connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % self.field)
                self.sender.run(connection)

    def client(self, port: int) -> None:
        """Makes the request. Blocks."""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(WITHIN_S)
            if self.way == "upload":
                connection.sendall(request(b"POST", b"/", self.field))
                self.sender.run(connection)
                with connection.makefile("rb") as answer:
                    assert ok(b"").split(b"\r\n")[0] == answer.readline().rstrip()
            else:
                connection.sendall(GET)
                self.reader.run(connection)


@asynccontextmanager
async def running(transfer: BulkTransfer, listener: socket.socket, port: int) -> AsyncIterator[Callable[[], bool]]:
    """Runs both ends on threads; yields a look at whether both are done, and leaves when they are."""
    tasks = Tasks()
    ends = [
        tasks.start(asyncio.to_thread(transfer.upstream, listener), name="upstream"),
        tasks.start(asyncio.to_thread(transfer.client, port), name="client"),
    ]
    try:
        yield lambda: all(end.done() for end in ends)
    finally:
        transfer.reader.go_on.set()
        await asyncio.gather(*ends)


@pytest.mark.parametrize(
    ("way", "framing"),
    [
        ("upload", "length"),
        ("download", "chunks"),
        pytest.param("upload", "chunks", marks=pytest.mark.slow),
        pytest.param("download", "length", marks=pytest.mark.slow),
    ],
)
async def test_256_mib_past_a_reader_that_stops_for_5_s(tmp_path: Path, way: str, framing: str):
    """Memory grows by less than 8 MiB; the sender is held back as long as the reader stands still; all arrives."""
    transfer = BulkTransfer(way, framing, size=256 * MIB, stop_at=32 * MIB)
    loop = asyncio.get_running_loop()
    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(always(ok(b"warm"))) as small:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            text = simple_configuration(server.url, f"http://127.0.0.1:{listener.getsockname()[1]}")
            text += f"""\
  - {{name: small, match: {{path_prefix: /small}}, upstream: "http://127.0.0.1:{small.port}", credential: main}}
"""
            (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
            async with program.serving("-c", "proxy.yaml", cwd=tmp_path, env={"CLIENT_SECRET": "a secret"}) as gateway:
                for warming in (request(target=b"/small"), request(b"POST", b"/small", body=b"x" * 1000)):
                    assert 200 == (await ask(gateway.port, warming)).status
                before = most = resident_octets(gateway.process.pid)
                stopped_s, held_at, standing_still_s = 0.0, -1, 0.0
                async with running(transfer, listener, gateway.port) as done:
                    while not done():
                        await asyncio.sleep(0.05)  # noqa: TID251  # between two looks
                        most = max(most, resident_octets(gateway.process.pid))
                        now_s = loop.time()
                        if transfer.reader.stopped.is_set() and not transfer.reader.go_on.is_set():
                            stopped_s = stopped_s or now_s
                            if transfer.sender.sent != held_at:
                                held_at, standing_still_s = transfer.sender.sent, now_s
                            if now_s >= stopped_s + 5.0:
                                transfer.reader.go_on.set()
    assert most - before <= 8 * MIB
    assert held_at < 128 * MIB  # what the buffers of four sockets may have taken beside 32 MiB
    assert standing_still_s <= stopped_s + 2.5  # and then no more, for half of the time at least
    assert (256 * MIB, transfer.sender.crc) == (transfer.reader.received, transfer.reader.crc)


@pytest.mark.parametrize("way", ["upload", "download"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_both_loops
async def test_a_sender_waits_for_its_reader(tmp_path: Path, way: str, framing: str):
    """Whoever reads slowly holds back whoever sends, through the gateway; all arrives in the end, octet for octet."""
    transfer = BulkTransfer(way, framing, size=128 * MIB, stop_at=1 * MIB)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with (
            in_front_of(listener.getsockname()[1], tmp_path) as gateway,
            running(transfer, listener, gateway.port),
        ):
            await until(transfer.reader.stopped.is_set)
            held_at, looks = -1, 0
            while looks < 10:
                looks = looks + 1 if transfer.sender.sent == held_at else 0
                held_at = transfer.sender.sent
                await asyncio.sleep(0.03)  # noqa: TID251  # between two looks
            assert held_at < 128 * MIB
            assert held_at == transfer.sender.sent
    assert (128 * MIB, transfer.sender.crc) == (transfer.reader.received, transfer.reader.crc)


@on_both_loops
async def test_each_piece_of_an_answer_is_passed_on_at_once(tmp_path: Path):
    """Server-sent events: none waits for the next one."""

    async def events(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            await connection.stall()
            connection.send(b"5\r\nevt %d\r\n" % number)
        await connection.stall()
        connection.send(b"0\r\n\r\n")

    async with (
        ScriptedUpstream(events) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(GET)
        assert 200 == (await client.answer(head_only=True)).status
        for number in range(5):
            upstream.go_on()
            assert b"5\r\nevt %d\r\n" % number == await client.reader.readexactly(10)
        upstream.go_on()
        assert b"0\r\n\r\n" == await client.reader.readexactly(5)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_both_loops
async def test_each_piece_of_an_upload_is_passed_on_at_once(tmp_path: Path, framing: str):
    """The upstream has each piece before the next one is sent; and its answer begins before the upload ends."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await connection.request()
        connection.send(b"4\r\ndone\r\n0\r\n\r\n")

    pieces = [b"piece %d" % number for number in range(5)]
    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        field = CHUNKED if framing == "chunks" else b"Content-Length: %d" % sum(map(len, pieces))
        await client.send(request(b"POST", b"/", field))
        assert 200 == (await client.answer(head_only=True)).status
        connection = await upstream.connection()
        for piece in pieces:
            await client.send(b"7\r\n%b\r\n" % piece if framing == "chunks" else piece)
            await connection.until(lambda piece=piece: piece in connection.received)
        if framing == "chunks":
            await client.send(b"0\r\n\r\n")
        assert b"4\r\ndone\r\n0\r\n\r\n" == await client.reader.read(100)


# ---- clients that leave


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "proxy.access"]


async def expect_left(gateway: RunningGateway, caplog: pytest.LogCaptureFixture, method: str) -> dict[str, object]:
    """Checks that the one request of a test counts and is logged as one whose client left; returns its line."""
    await until(lambda: bool(access_lines(caplog)))
    (line,) = access_lines(caplog)
    assert (499, method, "client") == (line["status"], line["method"], line["failed"])
    assert 1 == await gateway.sample("bearer_proxy_http_requests_total", route="all", method=method, code="499")
    assert 0 == await gateway.sample("bearer_proxy_http_requests_in_flight", route="all")
    samples = await gateway.samples()
    errors = [value for (name, _), value in samples.items() if name == "bearer_proxy_upstream_errors_total"]
    assert 0 == sum(errors)  # it was not the upstream's fault
    return line


@on_both_loops
async def test_a_client_leaves_before_its_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The upstream's connection is closed, so that it may stop working; 499 in metrics and log."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(answering()) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(GET)
            await (await upstream.connection()).request()
        await upstream.connections[0].gone()
        await expect_left(gateway, caplog, "GET")


@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_both_loops
async def test_a_client_leaves_within_its_upload(tmp_path: Path, framing: str, caplog: pytest.LogCaptureFixture):
    """What the upstream got is cut off: it can never take a part for the whole."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(silent) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            field = CHUNKED if framing == "chunks" else b"Content-Length: 10"
            await client.send(request(b"POST", b"/", field) + (b"5\r\nhello\r\n" if framing == "chunks" else b"hello"))
            connection = await upstream.connection()
            await connection.until(lambda: b"hello" in connection.received)
        await connection.gone()
        assert connection.received.endswith(b"hello" if framing == "length" else b"hello\r\n")
        await expect_left(gateway, caplog, "POST")


@on_both_loops
async def test_a_client_leaves_while_it_waits_for_a_token(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Nothing is sent to the upstream; the token comes for whoever asks next."""
    caplog.set_level(logging.INFO, "proxy.access")
    gate = asyncio.Event()
    async with ScriptedUpstream(always(ok(b"fine"))) as upstream, ScriptedAuthorizationServer() as server:
        server.script.append(token_reply("at-late", gate=gate))
        async with in_front_of(upstream.port, tmp_path, server=server) as gateway:
            async with connected(gateway.port) as client:
                await client.send(GET)
                await until(lambda: gateway.gateway.in_flight == 1)
            await expect_left(gateway, caplog, "GET")
            assert [] == upstream.connections
            gate.set()
            assert 200 == (await ask(gateway.port, GET)).status
            assert 1 == len(server.requests)


@on_both_loops
async def test_a_client_leaves_while_it_waits_for_a_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Its turn goes to the next; its request was never sent."""
    caplog.set_level(logging.INFO, "proxy.access")

    async def held(connection: ScriptedConnection) -> None:
        while True:
            await connection.request()
            await connection.stall()
            connection.send(ok(b"fine"))

    async with (
        ScriptedUpstream(held) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {max_connections: 1}") as gateway,
        connected(gateway.port) as first,
        connected(gateway.port) as third,
    ):
        await first.send(request(target=b"/first"))
        await (await upstream.connection()).until(lambda: upstream.stalled == 1)
        async with connected(gateway.port) as second:
            await second.send(request(target=b"/second"))
            await until(lambda: gateway.gateway.in_flight == 2)
        await until(lambda: gateway.gateway.in_flight == 1)
        await third.send(request(target=b"/third"))
        upstream.go_on(2)
        assert [200, 200] == [(await client.answer()).status for client in (first, third)]
        assert [b"/first", b"/third"] == [seen.split(b" ")[1] for seen in upstream.connections[0].requests]
        assert [499, 200, 200] == [line["status"] for line in access_lines(caplog)]


@on_both_loops
async def test_a_client_leaves_within_its_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The upstream's connection is closed; 499 though another status was on its way, and it is nobody else's doing."""
    caplog.set_level(logging.INFO, "proxy.access")

    async def endless(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not connection.lost and not connection.transport.is_closing():
            await connection.send_flowing(b"x" * 10_000)

    async with ScriptedUpstream(endless) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(GET)
            assert 200 == (await client.answer(head_only=True)).status
            await client.reader.readexactly(20_000)
        await upstream.connections[0].gone()
        line = await expect_left(gateway, caplog, "GET")
        assert 20_000 <= line["response_bytes"]


# ---- clients that stand still


@pytest.mark.parametrize("framing", ["length", "chunks", "until the end"])
@on_both_loops
async def test_t23_a_client_that_does_not_read_its_answer(
    tmp_path: Path, framing: str, caplog: pytest.LogCaptureFixture
):
    """After write_idle_timeout it is cut, and the upstream's connection is closed: it occupies nothing any more."""
    caplog.set_level(logging.INFO, "proxy.access")
    field = {"length": b"Content-Length: 100000000", "chunks": CHUNKED, "until the end": b"X: y"}[framing]

    async def big(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % field)
        piece = b"x" * 100_000
        while not connection.lost and not connection.transport.is_closing():
            await connection.send_flowing(b"186a0\r\n%b\r\n" % piece if framing == "chunks" else piece)

    async with (
        ScriptedUpstream(big) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {write_idle_timeout: 500ms}") as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await (await upstream.connection()).gone()
        line = await expect_left(gateway, caplog, "GET")
        assert "the client does not read its answer" == line["detail"]
        assert line["response_bytes"] < 100_000_000
        assert gateway.gateway.server.open_connections == 0


@on_both_loops
async def test_a_client_that_reads_its_answer_slowly(tmp_path: Path):
    """It is not cut, however long the gateway's and the system's buffers take to move on."""

    async def big(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while not connection.lost and not connection.transport.is_closing():
            await connection.send_flowing(b"x" * 100_000)

    loop = asyncio.get_running_loop()
    async with (
        ScriptedUpstream(big) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {write_idle_timeout: 1s}") as gateway,
    ):
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
            await loop.sock_connect(client, ("127.0.0.1", gateway.port))
            await loop.sock_sendall(client, GET)
            read = 0
            while read < 20 * MIB:  # quickly at first: the system makes its buffers as large as it can
                read += len(await loop.sock_recv(client, MIB))
            slow_since_s = loop.time()
            while loop.time() < slow_since_s + 2.2:
                assert await loop.sock_recv(client, 32 * KIB)
                await asyncio.sleep(0.05)  # noqa: TID251  # slowness
            assert 1 == gateway.gateway.in_flight
            assert not upstream.connections[0].lost


@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_both_loops
async def test_an_upload_that_stalls(tmp_path: Path, framing: str):
    """408, the connection ends, and the upstream's too, without the end of a body that did not come."""
    async with (
        ScriptedUpstream(silent) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {body_idle_timeout: 300ms}") as gateway,
        connected(gateway.port) as client,
    ):
        field = CHUNKED if framing == "chunks" else b"Content-Length: 10"
        await client.send(request(b"POST", b"/", field) + (b"5\r\nhello\r\n" if framing == "chunks" else b"hello"))
        expect_problem(await client.answer(), 408, "request-timeout")
        await upstream.connections[0].gone()
        assert upstream.connections[0].received.endswith(b"hello" if framing == "length" else b"hello\r\n")
        assert 1 == await gateway.sample("bearer_proxy_requests_refused_total", reason="request-timeout")
        assert 1 == await gateway.sample("bearer_proxy_http_requests_total", route="all", method="POST", code="408")


@pytest.mark.parametrize("wrong", [b"what?\r\n", b"5\r\nlonger\r\n", b"-1\r\n\r\n", b"0x5\r\nhello\r\n"])
@on_both_loops
async def test_an_upload_whose_chunks_break(tmp_path: Path, wrong: bytes):
    """One 400, the connection ends, and the upstream never gets the end of that body."""
    async with (
        ScriptedUpstream(silent) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(b"POST", b"/", CHUNKED) + b"5\r\nhello\r\n")
        connection = await upstream.connection()
        await connection.until(lambda: b"hello" in connection.received)
        await client.send(wrong)
        expect_problem(await client.answer(), 400, "bad-request")
        assert b"" == await client.reader.read(1000)
        await connection.gone()
        assert not connection.received.endswith(b"0\r\n\r\n")


@on_both_loops
async def test_an_upload_in_chunks_that_grows_too_big(tmp_path: Path):
    """413 as soon as it is too much; the upstream never gets the end of it."""
    async with (
        ScriptedUpstream(silent) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {body_bytes: 10KiB}") as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(b"POST", b"/", CHUNKED))
        for _ in range(11):
            await client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        expect_problem(await client.answer(), 413, "body-too-large")
        await upstream.connections[0].gone()
        assert upstream.connections[0].received.count(b"x" * 1024) <= 10
        assert not upstream.connections[0].received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("position", ["first", "second"])
@pytest.mark.parametrize("speed", ["stands still", "drips"])
@on_both_loops
async def test_t23_a_head_that_takes_too_long(tmp_path: Path, position: str, speed: str):
    """408 once head_timeout is over, however steadily octets drip in; and the connection ends."""
    async with (
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {head_timeout: 500ms}") as gateway,
        connected(gateway.port) as client,
    ):
        if position == "second":
            await client.send(GET)
            assert 200 == (await client.answer()).status
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        dripping = Tasks()
        if speed == "drips":
            dripping.start(_drip(client), name="drip")
        expect_problem(await client.answer(), 408, "request-timeout")
        assert await client.closed()
        await dripping.stop()


async def _drip(client: RawClient) -> None:
    while not client.writer.transport.is_closing():
        client.writer.write(b"x")
        await asyncio.sleep(0.05)  # noqa: TID251  # the drip


@pytest.mark.parametrize("position", ["first", "second"])
@on_both_loops
async def test_a_connection_without_a_request(tmp_path: Path, position: str):
    """It is closed after its time, and nothing is said: there is nothing to answer."""
    async with (
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {head_timeout: 300ms, keepalive_timeout: 300ms}") as gateway,
        connected(gateway.port) as client,
    ):
        if position == "second":
            await client.send(GET)
            assert 200 == (await client.answer()).status
        assert await client.closed()
        await until(lambda: gateway.gateway.server.open_connections == 0)


# ---- several requests on one connection


@on_both_loops
async def test_pipelined_requests(tmp_path: Path):
    """They are answered in the order they came in, with and without bodies, however quick each answer is."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            target = (await connection.request()).split(b" ")[1]
            if int(target[1:]) % 3 == 0:
                await connection.stall()
            connection.send(ok(target))

    numbers = range(60)  # more than wait in the gateway at once
    pipeline = b"".join(
        request(b"POST", b"/%d" % number, body=b"body %d" % number) if number % 2 else request(target=b"/%d" % number)
        for number in numbers
    )
    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(pipeline)
        upstream.go_on(len(numbers))
        answers = [await client.answer() for _ in numbers]
        assert [(200, b"/%d" % number) for number in numbers] == [(answer.status, answer.body) for answer in answers]
        await client.send(GET.replace(b"/ ", b"/1 "))
        assert 200 == (await client.answer()).status
        seen = [seen for connection in upstream.connections for seen in connection.requests]
        assert [b"body %d" % number for number in numbers if number % 2] == [
            body for request in seen if (body := request.partition(b"\r\n\r\n")[2])
        ]


@on_both_loops
async def test_what_follows_the_last_request(tmp_path: Path):
    """After `Connection: close` nothing more is served, after garbage neither, and that gets one 400."""
    async with ScriptedUpstream(always(ok(b"fine"))) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(request(b"GET", b"/", b"Connection: close"))
            answer = await client.answer()
            assert (200, b"close") == (answer.status, answer.field(b"Connection"))
            with suppress(ConnectionError):
                await client.send(request(target=b"/more"))
            assert await client.closed()
        async with connected(gateway.port) as client:
            # one piece: whether the first is served is open, the second is not
            await client.send(request(b"GET", b"/", b"Connection: close") + request(target=b"/more"))
            assert (await client.answer()).status in {200, 400}
            assert await client.closed()
        async with connected(gateway.port) as client:
            await client.send(GET + b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n" + request(target=b"/more"))
            assert 200 == (await client.answer()).status
            expect_problem(await client.answer(), 400, "bad-request")
            assert await client.closed()
        assert not any(b"/more" in received for received in upstream.received)


@on_both_loops
async def test_keep_alive(tmp_path: Path):
    """HTTP/1.1 keeps the connection unless told otherwise, HTTP/1.0 only if asked to; the upstream's is its own affair."""
    closing = ok(b"fine", b"Connection: close")
    async with ScriptedUpstream(always(closing)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            for _ in range(20):
                await client.send(GET)
                answer = await client.answer()
                assert (200, None) == (answer.status, answer.field(b"Connection"))
        async with connected(gateway.port) as client:
            for _ in range(2):
                await client.send(request(b"GET", b"/", b"Connection: Keep-Alive", version=b"1.0"))
                answer = await client.answer()
                assert (200, b"keep-alive") == (answer.status, answer.field(b"Connection"))
            await client.send(request(version=b"1.0"))
            assert b"close" == (await client.answer()).field(b"Connection")
            assert await client.closed()
        assert 23 == len(upstream.connections)


# ---- Expect: 100-continue


EXPECTING = request(b"POST", b"/", b"Expect: 100-continue", b"Content-Length: 5")


@on_both_loops
async def test_100_continue_comes_with_a_connection(tmp_path: Path):
    """100 is said only when the request could go out at once; Expect is not forwarded, the upstream's own 100 neither."""

    async def held(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.request()
        await connection.stall()
        connection.send(ok(b"fine"))

    async with (
        ScriptedUpstream(held, answering(ok(b"second"))) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {max_connections: 1, reuse: false}") as gateway,
        connected(gateway.port) as first,
        connected(gateway.port) as second,
    ):
        await first.send(EXPECTING)
        assert (100, b"HTTP/1.1 100 Continue\r\n\r\n") == ((answer := await first.answer()).status, answer.head)
        await first.send(b"hello")
        await upstream.until(lambda: upstream.stalled == 1)

        await second.send(EXPECTING)  # while the one connection is taken
        await until(lambda: gateway.gateway.in_flight == 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await second.answer()
        upstream.go_on()
        assert b"fine" == (await first.answer()).body
        assert 100 == (await second.answer()).status
        await second.send(b"hello")
        assert b"second" == (await second.answer()).body
        for connection in upstream.connections:
            assert b"expect" not in connection.requests[0].lower()
            assert connection.requests[0].endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        pytest.param(EXPECTING.replace(b"/ ", b"/nowhere ", 1), 404, id="no route"),
        pytest.param(EXPECTING.replace(b": 5", b": 5000"), 413, id="too large"),
        pytest.param(EXPECTING.replace(b"localhost", b"evil.example"), 421, id="foreign host"),
        pytest.param(EXPECTING, 502, id="no connection"),
    ],
)
@on_both_loops
async def test_100_continue_is_not_said_to_who_is_refused(tmp_path: Path, refused: bytes, status: int):
    """The final status comes first and alone, and the connection ends: the body may or may not follow."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    top = "limits: {body_bytes: 1KiB}"
    async with (
        in_front_of(port, tmp_path, route=ONE_TRY, top=top, path_exact="/") as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(refused)
        answer = await client.answer()
        assert (status, b"close") == (answer.status, answer.field(b"Connection"))


@on_both_loops
async def test_100_continue_without_a_token(tmp_path: Path):
    """503, and no 100 before it."""
    async with ScriptedUpstream(silent) as upstream, ScriptedAuthorizationServer() as server:
        await server.stop()
        async with in_front_of(upstream.port, tmp_path, server=server) as gateway, connected(gateway.port) as client:
            await client.send(EXPECTING)
            expect_problem(await client.answer(), 503, "token-unavailable")
            assert [] == upstream.connections


@pytest.mark.parametrize(
    "expecting", [EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"), EXPECTING.replace(b"t: 100-c", b"t: 100-C")]
)
@on_both_loops
async def test_100_continue_by_version_and_case(tmp_path: Path, expecting: bytes):
    """HTTP/1.0 clients are never sent a 100; the word is read without regard to case."""
    async with (
        ScriptedUpstream(answering(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(expecting)
        if b"HTTP/1.1" in expecting:
            assert 100 == (await client.answer()).status
        await client.send(b"hello")
        assert (200, b"fine") == ((answer := await client.answer()).status, answer.body)


# ---- how many connections


@on_both_loops
async def test_t23_more_connections_than_allowed(tmp_path: Path):
    """One too many is told so at once, with 503; when one ends, another one is let in."""
    async with (
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {connections: 3}") as gateway,
        connected(gateway.port) as busy,
        connected(gateway.port),
    ):
        await busy.send(GET)
        assert 200 == (await busy.answer()).status
        async with connected(gateway.port):
            await until(lambda: gateway.gateway.server.open_connections == 3)
            for _ in range(5):
                expect_problem(answer := await ask(gateway.port, GET), 503, "overloaded")
                assert b"1" == answer.field(b"Retry-After")
            await busy.send(GET)
            assert 200 == (await busy.answer()).status
        await until(lambda: gateway.gateway.server.open_connections == 2)
        assert 200 == (await ask(gateway.port, GET)).status
        assert 5 == await gateway.sample("bearer_proxy_requests_refused_total", reason="overloaded")


@on_both_loops
async def test_more_connections_of_one_client_than_allowed(tmp_path: Path):
    """One client cannot take the places of others."""
    async with (
        ScriptedUpstream(always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, top="limits: {connections_per_client: 2}") as gateway,
        connected(gateway.port) as busy,
        connected(gateway.port),
    ):
        await busy.send(GET)
        assert 200 == (await busy.answer()).status
        await until(lambda: gateway.gateway.server.open_connections == 2)
        expect_problem(await ask(gateway.port, GET), 503, "overloaded")
        other = RawClient(*await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=("127.0.0.2", 0)))
        await other.send(GET)
        assert 200 == (await other.answer()).status
        await other.close()


def expect_problem(answer: Answer, status: int, suffix: str) -> None:
    assert (status, f"urn:bearer-proxy:problem:{suffix}") == (answer.status, json.loads(answer.body)["type"])
    assert b"close" == answer.field(b"Connection")
