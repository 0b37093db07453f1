"""Upgrades: a request for another protocol, decided like any other, and the tunnel behind a 101."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.tasks import Tasks
from proxy.transports import reset
from proxy.units import MIB
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import until
from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.gateway import RunningGateway, Taken
from tests.support.raw_client import RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok
from tests.upstream.certificates import Authority

CLOCK = SystemClock()
ASKING = (b"Connection: Upgrade", b"Upgrade: chess/1")
UPGRADE = request(b"GET", b"/", *ASKING)
GRANTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chess/1\r\n\r\n"


async def granting(upstream: ScriptedConnection) -> None:
    """Grants the upgrade, and says no more."""
    await upstream.request()
    upstream.send(GRANTED)


async def echoing(upstream: ScriptedConnection) -> None:
    """Grants the upgrade, and sends back what comes, until there is an end; then ends too."""
    await upstream.request()
    upstream.send(GRANTED)
    at = len(upstream.requests[0])
    while True:
        await upstream.until(lambda at=at: len(upstream.received) > at or upstream.eof)
        if len(upstream.received) == at:
            upstream.half_close()
            return
        data = bytes(upstream.received[at:])
        at += len(data)
        upstream.send(data)


@asynccontextmanager
async def tunnel(gateway: RunningGateway, asked: bytes = UPGRADE) -> AsyncIterator[RawClient]:
    """Opens a tunnel, for as long as the test needs it."""
    async with connected(gateway.port) as client:
        await client.send(asked)
        answer = await client.answer(head_only=True)
        assert 101 == answer.status
        yield client


@on_both_loops
async def test_octets_both_ways(tmp_path: Path):
    """A protocol that nobody here knows: what was sent behind either head arrives, and so does all that follows."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(GRANTED + b"\x00welcome")
        await upstream.until(lambda: upstream.received.endswith(b"\xffe4"))
        upstream.send(b"\r\n\r\ne5")

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(UPGRADE + b"early")
        answer = await client.answer(head_only=True)
        assert (101, b"Upgrade", b"chess/1") == (
            answer.status,
            answer.field(b"Connection"),
            answer.field(b"Upgrade"),
        )
        assert b"\x00welcome" == await client.reader.readexactly(8)
        await client.send(b"\xffe4")
        assert b"\r\n\r\ne5" == await client.reader.readexactly(6)
        head, _, octets = upstream.connections[0].received.partition(b"\r\n\r\n")
        assert b"early\xffe4" == octets
        lines = head.split(b"\r\n")
        assert 1 == lines.count(b"Connection: Upgrade") == lines.count(b"Upgrade: chess/1")
        assert b"Authorization: Bearer at-1" in lines


@on_both_loops
async def test_what_was_sent_early_in_pieces(tmp_path: Path):
    """However the first octets were cut, and however many come before the answer, they arrive once and in order."""
    early = bytes(range(256)) * 2000

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.head()
        await upstream.stall()
        upstream.send(GRANTED[:-3])
        await CLOCK.sleep(0.05)
        upstream.send(GRANTED[-3:] + early)

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        for octet in UPGRADE:
            await client.send(bytes([octet]))
        client.writer.write(early)
        connection = await upstream.connection()
        await connection.head()
        await CLOCK.sleep(0.05)
        assert connection.received.endswith(b"\r\n\r\n")  # nothing but the head goes on before the 101
        upstream.go_on()
        assert 101 == (await client.answer(head_only=True)).status
        assert early == await client.reader.readexactly(len(early))
        await connection.until(lambda: len(connection.received) >= len(early))
        await connection.until(lambda: connection.received.endswith(early))
        assert early == connection.received.partition(b"\r\n\r\n")[2]


@on_both_loops
async def test_interim_answers_come_before(tmp_path: Path):
    """103 and the like are passed on in front of the 101."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + GRANTED)

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(UPGRADE)
        assert [103, 101] == [(await client.answer(head_only=True)).status for _ in range(2)]


# ---- the same decision


@pytest.mark.parametrize(
    ("fields", "top", "status"),
    [
        pytest.param((b"Origin: https://evil.example",), "", 403, id="T6 a foreign origin"),
        pytest.param((b"Sec-Fetch-Site: cross-site",), "", 403, id="cross-site"),
        pytest.param((b"Host: evil.example",), "", 400, id="two hosts"),
        pytest.param((b"X_Forwarded_For: 1.2.3.4",), "", 400, id="an underscore twin"),
        pytest.param((), "access: {allowed_clients: [127.0.0.2/32]}", 403, id="a client outside"),
        pytest.param((), "access: {allowed_hosts: [gateway.example]}", 421, id="another host"),
        pytest.param((b"Content-Length: 5",), "", 400, id="a body"),
        pytest.param((b"Transfer-Encoding: chunked",), "", 400, id="a chunked body"),
        pytest.param((b"Expect: something",), "", 417, id="an expectation"),
    ],
)
async def test_who_is_refused(tmp_path: Path, fields: tuple[bytes, ...], top: str, status: int):
    """Every rule for requests holds for this one: refused with a plain answer, the upstream untouched, and closed."""
    async with (
        ScriptedUpstream() as upstream,
        in_front_of(upstream.port, tmp_path, top=top) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(b"GET", b"/", *ASKING, *fields) + b"hello")
        answer = await client.answer()
        assert (status, b"close") == (answer.status, answer.field(b"Connection"))
        assert answer.body.startswith(b'{"type":"urn:bearer-proxy:problem:')
        assert await client.closed()
        assert [] == upstream.connections


async def test_an_allowed_origin(tmp_path: Path):
    """A page that may use the gateway may open a WebSocket."""
    top = "access: {allowed_origins: ['https://good.example']}"
    asked = request(b"GET", b"/", *ASKING, b"Origin: https://good.example")
    async with (
        ScriptedUpstream(granting) as upstream,
        in_front_of(upstream.port, tmp_path, top=top) as gateway,
        tunnel(gateway, asked),
    ):
        assert b"Origin: https://good.example\r\n" in upstream.connections[0].requests[0]


async def test_websocket_by_another_method(tmp_path: Path):
    """RFC 6455 §4.1 asks for GET; other protocols may be asked for by any method."""
    async with ScriptedUpstream(granting) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(request(b"POST", b"/", b"Connection: Upgrade", b"Upgrade: websocket"))
            assert 400 == (await client.answer()).status
        async with tunnel(gateway, request(b"POST", b"/", *ASKING)):
            assert 1 == len(upstream.connections)


@on_both_loops
async def test_what_reaches_the_upstream(tmp_path: Path):
    """Strip, then set: one Authorization, ours, whatever Connection lists; nothing of the client's hop but what it asked."""
    fields = (
        b"Connection: Upgrade, Authorization, X-Hop, Sec-WebSocket-Key",
        b"Upgrade: h2c, Chess/1",
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"Authorization: Basic eDp5",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"X-Forwarded-For: 6.6.6.6",
        b"sec-websocket-VERSION: 13",
    )
    async with (
        ScriptedUpstream(granting) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        tunnel(gateway, request(b"GET", b"/a?b", *fields)),
    ):
        request_id = upstream.connections[0].requests[0].split(b"X-Request-Id: ")[1].split(b"\r\n")[0]
        assert [
            b"GET /a?b HTTP/1.1",
            b"Host: 127.0.0.1:%d" % upstream.port,
            b"sec-websocket-VERSION: 13",
            b"Connection: Upgrade",
            b"Upgrade: Chess/1",
            b"Via: 1.1 bearer-proxy",
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: localhost",
            b"X-Request-Id: " + request_id,
            b"Authorization: Bearer at-1",
            b"",
            b"",
        ] == upstream.connections[0].requests[0].split(b"\r\n")


@on_both_loops
async def test_a_token_is_renewed_before_the_upgrade(tmp_path: Path):
    """401 to an upgrade: nothing beyond its head was sent, so it is sent once more; what came early is not lost."""
    no = ok(b"who?", b'WWW-Authenticate: Bearer error="invalid_token"', status=b"401 Unauthorized")

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(no)
        await echoing(upstream)

    async with ScriptedUpstream(script) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(UPGRADE + b"early")
            assert 101 == (await client.answer(head_only=True)).status
            await upstream.until(lambda: b"early" in b"".join(upstream.received))
        seen = [seen for connection in upstream.connections for seen in connection.requests]
        tokens = [line for sent in seen for line in sent.split(b"\r\n") if line.startswith(b"Authorization")]
        assert [b"Authorization: Bearer at-1", b"Authorization: Bearer at-2"] == tokens
        assert 1 == await gateway.sample("bearer_proxy_token_replays_total", route="all", result="ok")


@on_both_loops
async def test_a_tunnel_outlives_its_token(tmp_path: Path):
    """What has begun goes on when its token expires: the upstream was shown a token that was good then."""
    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(echoing) as upstream:
        server.script.append(token_reply("at-short", expires_in=1))
        async with in_front_of(upstream.port, tmp_path, server=server) as gateway, tunnel(gateway) as client:
            assert b"Bearer at-short" in upstream.connections[0].requests[0]
            await CLOCK.sleep(1.2)
            await client.send(b"still here")
            assert b"still here" == await client.reader.readexactly(10)


# ---- what the upstream may answer


@on_both_loops
async def test_an_upstream_that_does_not_switch(tmp_path: Path):
    """Its answer is relayed like any other, and the client's connection closes: what follows was not meant as HTTP."""
    answer = ok(b"upgrade to something else", b"X-A: b", status=b"426 Upgrade Required")
    async with ScriptedUpstream(always(answer)) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for _ in range(2):
            async with connected(gateway.port) as client:
                await client.send(UPGRADE + request(target=b"/smuggled"))
                got = await client.answer()
                assert (426, b"b", b"close") == (got.status, got.field(b"X-A"), got.field(b"Connection"))
                assert b"upgrade to something else" == got.body
                assert await client.closed()
        assert [2] == [len(connection.requests) for connection in upstream.connections]  # which stays in use


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(GRANTED.replace(b"chess/1", b"go"), id="another protocol"),
        pytest.param(GRANTED.replace(b"chess/1", b"chess/1, h2c"), id="one more"),
        pytest.param(GRANTED.replace(b"Upgrade: chess/1\r\n", b""), id="none named"),
        pytest.param(GRANTED.replace(b"101 S", b"101 at-1 S"), id="the token in it"),
    ],
)
async def test_a_101_for_something_else(tmp_path: Path, answer: bytes):
    """502, and the connection to the upstream is closed: nobody knows what is spoken on it."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(answer + b"hello")

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE_TRY) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(UPGRADE)
        got = await client.answer()
        assert 502 == got.status
        assert b"hello" not in got.body
        await upstream.connections[0].gone()


async def test_a_later_request_asks(tmp_path: Path):
    """Behind plain requests, which aiohttp has not seen, an Upgrade is granted as on a new connection."""
    if not Taken.direct:
        pytest.skip("aiohttp does not give its connections back")

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(ok(b"plain"))
        await upstream.request()
        upstream.send(GRANTED + b"e4")
        await upstream.until(lambda: upstream.received.endswith(b"e5"))
        upstream.send(b"Nf3")

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE_TRY) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request())
        assert b"plain" == (await client.answer()).body
        await client.send(UPGRADE)
        assert 101 == (await client.answer()).status
        assert b"e4" == await client.reader.readexactly(2)
        await client.send(b"e5")
        assert b"Nf3" == await client.reader.readexactly(3)


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(b"GET", b"/", b"Upgrade: chess/1"),
        request(b"GET", b"/", b"Connection: Upgrade", b"Upgrade: h2c"),
        request(b"GET", b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"),
        request(b"GET", b"/", *ASKING, version=b"1.0"),
        request() + UPGRADE,
    ],
    ids=["plain", "no option", "h2c", "h2c with settings", "HTTP/1.0", "a later request"],
)
async def test_a_101_that_nobody_asked_for(tmp_path: Path, asked: bytes):
    """Where no upgrade was asked for, or not by us, the upstream sees no Upgrade, and its 101 is 502."""
    if Taken.direct and asked.count(b"\r\n\r\n") > 1:
        pytest.skip("on the direct path a later request may ask")

    async def script(upstream: ScriptedConnection) -> None:
        if asked.count(b"\r\n\r\n") > 1:
            await upstream.request()
            upstream.send(ok())
        await upstream.request()
        upstream.send(GRANTED)

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path, route=ONE_TRY) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(asked)
        if asked.count(b"\r\n\r\n") > 1:
            assert 200 == (await client.answer()).status
        answer = await client.answer()
        assert 502 == answer.status
        if asked.endswith(UPGRADE) and asked != UPGRADE:
            assert b"close" == answer.field(b"Connection")
            assert await client.closed()
        received = bytes(upstream.connections[0].received).lower()
        assert b"upgrade" not in received
        assert b"http2-settings" not in received


# ---- flow


@pytest.mark.parametrize("way", ["to the client", "to the upstream"])
@on_both_loops
async def test_a_side_that_does_not_read(tmp_path: Path, way: str):
    """It holds the other side back: no more than the buffers of a few sockets is taken; later all arrives."""
    size = 48 * MIB
    piece = bytes(range(256)) * 256
    async with (
        ScriptedUpstream(granting) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        tunnel(gateway) as client,
    ):
        connection = upstream.connections[0]
        head = len(connection.received)
        connection.stop_reading()
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < size:
                if way == "to the client":
                    await connection.send_flowing(piece)
                else:
                    await client.send(piece)
                sent += len(piece)

        tasks = Tasks()
        sending = tasks.start(send(), name="sending")
        before = -1
        while sent > before:
            before = sent
            await CLOCK.sleep(0.4)
        assert not sending.done()
        assert sent < size - 8 * MIB
        if way == "to the client":
            got = b""
            received = 0
            while received < size:
                got = await client.reader.readexactly(len(piece))
                assert piece == got
                received += len(got)
        else:
            connection.read_again()
            await connection.until(lambda: len(connection.received) == head + size)
            assert connection.received[head:] == piece * (size // len(piece))
        await sending


@on_both_loops
async def test_a_thousand_small_pieces(tmp_path: Path):
    """Sent one by one without waiting, they come back in order, whole."""
    async with (
        ScriptedUpstream(echoing) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        tunnel(gateway) as client,
    ):
        pieces = [b"<%d>" % number for number in range(1000)]
        for piece in pieces:
            client.writer.write(piece)
            if piece.endswith(b"7>"):
                await CLOCK.sleep(0)
        whole = b"".join(pieces)
        assert whole == await client.reader.readexactly(len(whole))


# ---- ends


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "proxy.access"]


@on_both_loops
async def test_the_client_ends_its_half(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The upstream sees the end, may still answer, and when it ends too all is over: once counted, once logged."""
    caplog.set_level(logging.INFO, "proxy.access")

    async def script(upstream: ScriptedConnection) -> None:
        await granting(upstream)
        await upstream.ended()
        upstream.send(b"last words")
        upstream.half_close()

    async with ScriptedUpstream(script) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with tunnel(gateway) as client:
            assert 1 == await gateway.sample("bearer_proxy_http_requests_in_flight", route="all")
            assert 1 == await gateway.sample("bearer_proxy_upstream_connections", route="all", state="busy")
            await client.send(b"hello")
            client.writer.write_eof()
            assert b"last words" == await client.reader.read()
        await until(lambda: bool(access_lines(caplog)))
        (line,) = access_lines(caplog)
        assert (101, 5, 10, "all", 1) == tuple(
            line[key] for key in ("status", "request_bytes", "response_bytes", "route", "tries")
        )
        assert "failed" not in line
        samples = await gateway.samples()
        assert 1 == samples["bearer_proxy_http_requests_total", (("code", "101"), ("method", "GET"), ("route", "all"))]
        assert 5 == samples["bearer_proxy_request_body_bytes_total", (("route", "all"),)]
        assert 10 == samples["bearer_proxy_response_body_bytes_total", (("route", "all"),)]
        assert 1 == samples["bearer_proxy_http_request_duration_seconds_count", (("route", "all"),)]
        assert 0 == samples["bearer_proxy_http_requests_in_flight", (("route", "all"),)]
        assert 0 == samples["bearer_proxy_upstream_connections", (("route", "all"), ("state", "busy"))]
        await until(lambda: gateway.gateway.server.open_connections == 0)


@on_both_loops
async def test_the_upstream_ends_its_half(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The client sees the end and may go on sending until it ends too."""
    caplog.set_level(logging.INFO, "proxy.access")

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(GRANTED + b"that was all")
        upstream.half_close()
        await upstream.ended()

    async with ScriptedUpstream(script) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with tunnel(gateway) as client:
            assert b"that was all" == await client.reader.read()
            connection = upstream.connections[0]
            for number in range(3):
                await client.send(b"and %d" % number)
                await connection.until(lambda number=number: connection.received.endswith(b"and %d" % number))
            client.writer.write_eof()
            await connection.gone()
            assert connection.loss is None
        await until(lambda: bool(access_lines(caplog)))
        assert "failed" not in access_lines(caplog)[0]


@on_both_loops
async def test_the_last_octets_of_a_slow_reader(tmp_path: Path):
    """Both have ended, and one has not read all yet: it still gets everything."""
    size = 4 * MIB

    async def script(upstream: ScriptedConnection) -> None:
        await granting(upstream)
        upstream.send(b"x" * size)
        upstream.half_close()

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        tunnel(gateway) as client,
    ):
        client.writer.write_eof()
        await CLOCK.sleep(0.3)
        assert size == len(await client.reader.read())


@pytest.mark.parametrize("side", ["client", "upstream"])
@on_both_loops
async def test_a_side_breaks_off(tmp_path: Path, side: str, caplog: pytest.LogCaptureFixture):
    """A reset is passed on as a reset: the other side cannot take what it has for the whole."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(granting) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with tunnel(gateway) as client:
            connection = upstream.connections[0]
            await client.send(b"half of")
            await connection.until(lambda: connection.received.endswith(b"half of"))
            if side == "client":
                reset(client.writer.transport)
                await connection.until(lambda: connection.lost)
                assert isinstance(connection.loss, ConnectionResetError)
            else:
                connection.reset()
                with pytest.raises(ConnectionResetError):
                    await client.reader.read()
        await until(lambda: bool(access_lines(caplog)))
        (line,) = access_lines(caplog)
        assert (101, side, "connection_terminated") == (line["status"], line["failed"], line["error"])
        errors = await gateway.sample("bearer_proxy_upstream_errors_total", route="all", error="connection_terminated")
        assert (side == "upstream") == errors
        assert 0 == await gateway.sample("bearer_proxy_upstream_connections", route="all", state="busy")


@on_both_loops
async def test_all_that_the_client_says_in_one_piece(tmp_path: Path):
    """Request, octets for the other protocol and its end, before any answer: all of it arrives, and the answer too."""
    async with ScriptedUpstream(echoing) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for _ in range(3):
            async with connected(gateway.port) as client:
                client.writer.write(UPGRADE + b"one and all")
                client.writer.write_eof()
                assert 101 == (await client.answer(head_only=True)).status
                assert b"one and all" == await client.reader.read()
        await until(lambda: gateway.gateway.server.open_connections == 0)


@on_both_loops
async def test_a_client_that_ended_before_it_was_refused(tmp_path: Path):
    """It gets its answer, and the connection closes with it."""
    no = ok(b"no", status=b"403 Forbidden")
    async with (
        ScriptedUpstream(always(no)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.write(UPGRADE + b"early")
        client.writer.write_eof()
        assert 403 == (await client.answer()).status
        assert await client.closed()
        await until(lambda: gateway.gateway.server.open_connections == 0)


@on_both_loops
async def test_a_client_leaves_before_the_101(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The upstream's connection is closed; 499, as with any other request."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(answering()) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with connected(gateway.port) as client:
            await client.send(UPGRADE)
            await (await upstream.connection()).request()
        await upstream.connections[0].gone()
        await until(lambda: bool(access_lines(caplog)))
        assert 499 == access_lines(caplog)[0]["status"]


@on_both_loops
async def test_a_tunnel_that_stands_still(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """After tunnel_idle without an octet either way both sides are cut; octets one way keep it open, and `total` does not
    count here."""
    caplog.set_level(logging.INFO, "proxy.access")
    route = "timeouts: {tunnel_idle: 700ms, total: 500ms, idle: 300ms}"
    async with ScriptedUpstream(granting) as upstream, in_front_of(upstream.port, tmp_path, route=route) as gateway:
        async with tunnel(gateway) as client:
            connection = upstream.connections[0]
            for _ in range(8):
                await CLOCK.sleep(0.2)
                await client.send(b"x")
            await connection.until(lambda: connection.received.endswith(b"x" * 8))
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
            await connection.until(lambda: connection.lost)
        await until(lambda: bool(access_lines(caplog)))
        (line,) = access_lines(caplog)
        assert (101, "gateway", "connection_read_timeout") == (line["status"], line["failed"], line["error"])
        assert line["duration_ms"] >= 1600


@on_both_loops
async def test_draining_lets_tunnels_go_on_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Until drain_timeout has passed; then they are cut, and nothing waits any longer."""
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(echoing) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with tunnel(gateway) as client, tunnel(gateway) as ending:
            tasks = Tasks()
            draining = tasks.start(gateway.gateway.server.drain(1.5), name="drain")
            await CLOCK.sleep(0.3)
            await client.send(b"still here")
            assert b"still here" == await client.reader.readexactly(10)
            ending.writer.write_eof()
            assert b"" == await ending.reader.read()
            assert not draining.done()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
            assert not await draining
        await until(lambda: len(access_lines(caplog)) == 2)
        assert [101, 101] == [line["status"] for line in access_lines(caplog)]


async def test_a_tunnel_counts_as_a_connection(tmp_path: Path):
    """The cap on connections holds for tunnels, and their ends free places."""
    top = "limits: {connections: 1}"
    async with ScriptedUpstream(echoing) as upstream, in_front_of(upstream.port, tmp_path, top=top) as gateway:
        for _ in range(3):
            async with tunnel(gateway) as client:
                async with connected(gateway.port) as another:
                    assert 503 == (await another.answer()).status
                client.writer.write_eof()
                assert b"" == await client.reader.read()
            await until(lambda: gateway.gateway.server.open_connections == 0)


# ---- TLS towards the upstream


@on_both_loops
async def test_over_tls(tmp_path: Path):
    """Octets both ways; TLS has no half, so its end ends both, and what was said before it arrives."""
    authority = Authority(tmp_path)
    pair = authority.pair("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(GRANTED + b"welcome")
        await upstream.until(lambda: upstream.received.endswith(b"bye"))
        upstream.send(b"y" * 200_000 + b"bye")
        upstream.close()

    async with ScriptedUpstream(script, ssl=context) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        async with in_front_of(url, tmp_path, route=f"tls: {{ca_file: {authority.file}}}") as gateway:
            async with tunnel(gateway, UPGRADE + b"early") as client:
                assert b"welcome" == await client.reader.readexactly(7)
                await client.send(b"bye")
                assert 200_003 == len(await client.reader.read())
            async with tunnel(gateway) as client:
                assert b"welcome" == await client.reader.readexactly(7)
                client.writer.write_eof()
                await upstream.connections[1].until(lambda: upstream.connections[1].lost)
                assert upstream.connections[1].eof
            async with tunnel(gateway) as client:
                assert b"welcome" == await client.reader.readexactly(7)
                upstream.connections[2].cut()  # without TLS's own end
                with pytest.raises(ConnectionResetError):
                    await client.reader.read()
            await until(lambda: gateway.gateway.server.open_connections == 0)


@on_both_loops
async def test_the_last_words_before_a_reset(tmp_path: Path):
    """An upstream says why and closes while it is still being sent to, which resets: its words arrive, whoever is first."""

    async def script(upstream: ScriptedConnection) -> None:
        await granting(upstream)
        await upstream.until(lambda: upstream.received.endswith(b"x"))
        upstream.send(b"enough")
        upstream.reset()

    tasks = Tasks()
    async with ScriptedUpstream(script) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for _ in range(20):
            async with tunnel(gateway) as client:
                words = tasks.start(client.reader.readexactly(6), name="last words")
                with suppress(ConnectionError):
                    while not words.done():
                        await client.send(b"x")
                        await CLOCK.sleep(0)
                assert b"enough" == await words


@on_both_loops
async def test_an_upstream_that_has_ended_and_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What it said is whole: when it resets what is still sent to it, the client is not reset, but sees an end."""
    caplog.set_level(logging.INFO, "proxy.access")

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(GRANTED + b"that was all")
        upstream.close()

    async with ScriptedUpstream(script) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with tunnel(gateway) as client:
            while not access_lines(caplog):
                await client.send(b"more")
                await CLOCK.sleep(0.02)
            assert b"that was all" == await client.reader.read()
        assert "failed" not in access_lines(caplog)[0]
