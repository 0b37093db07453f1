"""R41 to R50: versions and connections; and what aiohttp and the event loops were found to do with them."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from pathlib import Path

import pytest

from proxy.gateway import general
from tests.gateway.http.world import FINE, GET, World, row, suffix
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import until
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import Taken
from tests.support.raw_client import RawClient
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok, silent

CLOSE = b"Connection: close"
KEEP = b"Connection: keep-alive"
shared = pytest.mark.asyncio(loop_scope="module")


# ---- versions


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        row([], False, id="R41-by-default"),
        row([KEEP], True, id="R41-keep-alive"),
        row([b"Connection: Keep-Alive, x"], True, id="R41-keep-alive-in-a-list"),
        row([b"Connection: keep-alive, close"], False, id="R41-both"),
    ],
)
@shared
async def test_a_1_0_client(world: World, fields: list[bytes], kept: bool):
    """The answer has a length, and the connection ends unless the client asked to keep it and is told so."""
    async with connected(world.port) as client:
        await client.send(request(b"GET", b"/", *fields, version=b"1.0"))
        answer = await client.answer()
        assert (200, b"4", b"fine") == (answer.status, answer.field(b"Content-Length"), answer.body)
        assert (b"keep-alive" if kept else b"close") == answer.field(b"Connection")
        if kept:
            await client.send(request(b"GET", b"/", *fields, version=b"1.0"))
            assert 200 == (await client.answer()).status
        else:
            assert await client.closed()


@shared
async def test_R41_a_1_0_client_without_host(world: World):
    """It need not have one; no X-Forwarded-Host is made up."""
    got = await world.forwarded(b"GET /a HTTP/1.0\r\n\r\n")
    assert ([], [b"1.0 bearer-proxy"]) == (got.values(b"X-Forwarded-Host"), got.values(b"Via"))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        row(b"GET / HTTP/0.9", 505, id="R42-0.9"),
        row(b"GET / HTTP/1.2", 505, id="R42-1.2"),
        row(b"GET / HTTP/2.0", 505, id="R42-2.0"),
        row(b"GET / HTTP/3.0", 505, id="R42-3.0"),
        row(b"GET / HTTP/0.0", 505, id="R42-0.0"),
        row(b"PRI * HTTP/2.0", 505, id="R42-http-2-preface"),
        row(b"GET /", 400, id="R42-none"),
        row(b"GET / ", 400, id="R42-empty"),
        row(b"GET", 400, id="R42-a-method-alone"),
        row(b"GET / HTTP/1.10", 400, id="R42-1.10"),
        row(b"GET / HTTP/11.1", 400, id="R42-11.1"),
        row(b"GET / HTTP/1", 400, id="R42-1"),
        row(b"GET / HTTP/1.", 400, id="R42-1."),
        row(b"GET / HTTP/x.y", 400, id="R42-letters"),
        row(b"GET / http/1.1", 400, id="R42-lower-case"),
        row(b"GET / HTTPS/1.1", 400, id="R42-https"),
        row(b"GET / HTTP/1.1x", 400, id="R42-text-behind"),
        row(b"GET / HTTP/1,1", 400, id="R42-comma"),
        row(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="R42-tls"),
    ],
)
@shared
async def test_a_version_that_is_not_spoken(world: World, line: bytes, status: int):
    """505 for a version, 400 for what is none; the answer is HTTP/1.1, and the connection closes."""
    answer = await world.refused(line + b"\r\nHost: localhost\r\n\r\n")
    expected = (status, "version-not-supported" if status == 505 else "bad-request", b"close")
    assert expected == (answer.status, suffix(answer), answer.field(b"Connection"))
    assert answer.head.startswith(b"HTTP/1.1 ")


# ---- how long a connection lasts


@shared
async def test_R43_a_connection_stays(world: World):
    """By default, for as many requests as come; the upstream's `close` is its own affair."""
    world.says(ok(b"fine", b"Connection: close"))
    async with connected(world.port) as client:
        for _ in range(3):
            await client.send(GET)
            answer = await client.answer()
            assert (200, None) == (answer.status, answer.field(b"Connection"))


@shared
async def test_R43_close_is_honoured(world: World):
    """The client's: it is told so, and the connection ends. The upstream's: it is not used again."""
    async with connected(world.port) as client:
        await client.send(request(b"GET", b"/", b"connection: x, CLOSE"))
        answer = await client.answer()
        assert (200, b"close") == (answer.status, answer.field(b"Connection"))
        assert await client.closed()
    world.begin()
    world.script = always(ok(b"fine", b"Connection: Close"))
    async with connected(world.port) as client:
        for _ in range(2):
            await client.send(request(b"GET", b"/kept/closing"))
            assert 200 == (await client.answer()).status
    assert [1, 1] == [len(connection.requests) for connection in world.connections[-2:]]
    await world.connections[-2].gone()


@shared
async def test_R44_pipelined_requests(world: World):
    """They are answered in order, more than are queued at once too, with bodies between them."""

    async def echo(connection: ScriptedConnection) -> None:
        octets = await connection.request()
        connection.send(ok(octets.split(b" ")[1] + octets.partition(b"\r\n\r\n")[2]))

    world.script = echo
    chunks = b"2\r\nb2\r\n0\r\n\r\n"
    async with connected(world.port) as client:
        for number in range(25):
            await client.send(
                request(b"GET", b"/%d" % number)
                + request(b"POST", b"/%d" % number, body=b"b1")
                + request(b"PUT", b"/%d" % number, b"Transfer-Encoding: chunked")
                + chunks
            )
        for number in range(25):
            for body in (b"", b"b1", chunks):
                answer = await client.answer()
                assert (200, b"/%d" % number + body) == (answer.status, answer.body)


@pytest.mark.parametrize(
    "garbage",
    [
        row(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", id="R44-host"),
        row(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", id="R44-two-hosts"),
        row(b"GET / HTTP/1.1\r\n\r\n", id="R44-no-host"),
        row(b"\x00\x01\x02\r\n\r\n", id="R44-binary"),
        row(b"GET / HTTP/1.1\r\nA : b\r\n\r\n", id="R44-line"),
    ],
)
@shared
async def test_garbage_behind_a_request(world: World, garbage: bytes):
    """The request is answered, then the garbage is: 400, and the connection closes."""
    async with connected(world.port) as client:
        await client.send(GET + garbage + GET)
        assert [200, 400] == [(await client.answer()).status for _ in range(2)]
        assert await client.closed()
    assert 1 == len(world.requests)


@shared
async def test_R44_proxy_connection_is_no_field(world: World):
    """What it says ends no connection, though aiohttp's parser would refuse what follows."""
    async with connected(world.port) as client:
        await client.send(GET + request(b"GET", b"/", b"Proxy-Connection: close") + GET)
        assert [200, 200, 200] == [(await client.answer()).status for _ in range(3)]
    assert not any(b"roxy-Connection" in octets for octets in world.requests)


@shared
async def test_R45_garbage_behind_a_refusal(world: World):
    """A request that was refused is the last of its connection: what follows, in a piece of its own, has no answer."""
    async with connected(world.port) as client:
        client.writer.write(request(b"FOO"))
        await asyncio.sleep(0)  # noqa: TID251  # so that the pieces are mostly read apart
        await client.send(b"garbage\r\n\r\n")
        assert 501 == (await client.answer()).status
        assert await client.closed()


@shared
async def test_R44_an_unknown_method_behind_a_request(world: World):
    """501. In the same piece, aiohttp's parser gives both up: one refusal, and neither was carried out."""
    async with connected(world.port) as client:
        await client.send(GET + request(b"FOO"))
        if Taken.direct:
            assert 200 == (await client.answer()).status
        assert 501 == (await client.answer()).status
        assert await client.closed()
    assert Taken.direct == len(world.requests)


@pytest.mark.parametrize(
    "last",
    [
        row(request(b"GET", b"/", CLOSE), id="R45-close"),
        row(request(b"POST", b"/", CLOSE, body=b"x"), id="R45-close-with-a-body"),
        row(
            request(b"POST", b"/", CLOSE, b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n\r\n",
            id="R45-close-with-chunks",
        ),
        row(request(version=b"1.0"), id="R45-1.0"),
    ],
)
@pytest.mark.parametrize("after", [GET, b"garbage", b"\r\n\r\n\r\n"], ids=["a-request", "garbage", "empty-lines"])
@pytest.mark.parametrize("apart", [False, True], ids=["in-one-piece", "apart"])
@shared
async def test_what_follows_a_close(world: World, last: bytes, after: bytes, apart: bool):
    """The request before it is answered, and nothing of it is carried out or answered (aiohttp#8087)."""

    async def slow(connection: ScriptedConnection) -> None:
        await connection.request()
        if apart:
            await connection.stall()
        connection.send(FINE)

    world.script = slow
    async with connected(world.port) as client:
        await client.send(last if apart else last + after)
        if apart:
            await (await world.connection()).until(lambda: bool(world.requests))
            await client.send(after)
            world.upstream.go_on()
        answer = await client.answer()
        assert (200, b"close") == (answer.status, answer.field(b"Connection"))
        assert await client.closed()
    assert 1 == len(world.requests)


@pytest.mark.parametrize("behind", [GET, GET[:10], request(b"POST", body=b"x")[:-1]], ids=["whole", "begun", "body"])
@shared
async def test_R45_a_client_that_goes_on_sending_behind_a_close(world: World, behind: bytes):
    """It is read for a while, and dropped: a reset could take the answer from a client that reads late."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", world.port))
        await loop.sock_sendall(client, request(b"GET", b"/", CLOSE) + behind)
        answer = b""
        while octets := await loop.sock_recv(client, 4096):
            answer += octets
        assert answer.startswith(b"HTTP/1.1 200 ")
        for _ in range(3):
            await loop.sock_sendall(client, GET)  # after a reset, this fails
    assert 1 == len(world.requests)


@pytest.mark.parametrize("lines", [row(1, id="R46-1"), row(4, id="R46-4")])
@shared
async def test_empty_lines_before_a_request(world: World, lines: int):
    """A few are passed over, before the first request and between two."""
    async with connected(world.port) as client:
        for _ in range(2):
            await client.send(b"\r\n" * lines + GET)
            assert 200 == (await client.answer()).status


@pytest.mark.parametrize(
    "octets", [row(b"\r\n" * 5, id="R46-5"), row(b"\n", id="R46-bare-lf"), row(b"\r\r\n", id="R46-bare-cr")]
)
@shared
async def test_other_lines_before_a_request(world: World, octets: bytes):
    """400."""
    assert 400 == (await world.refused(octets + GET)).status


# ---- end to end


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"x-unheard-of, gzip"])
@shared
async def test_R48_content_codings(world: World, coding: bytes):
    """Nobody here decodes or codes: bodies and Accept-Encoding pass byte for byte, and none is added."""
    body = gzip.compress(b"spoons" * 100, mtime=0)
    world.says(ok(body, b"Content-Encoding: " + coding, b"Vary: Accept-Encoding"))
    fields = [b"Content-Encoding: " + coding, b"Accept-Encoding: " + coding + b";q=0.5"]
    answer = await world.ask(request(b"POST", b"/", *fields, body=body))
    assert (coding, body) == (answer.field(b"Content-Encoding"), answer.body)
    head, _, sent = world.requests[-1].partition(b"\r\n\r\n")
    assert body == sent
    assert all(field in head for field in fields)
    await world.forwarded(GET)
    assert b"accept-encoding" not in world.requests[-1].lower()


@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        row(b"Content-Length: 1000000", b"x" * 5000, id="R49-length"),
        row(b"Transfer-Encoding: chunked", b"5\r\nhello\r\n", id="R49-chunks"),
    ],
)
@shared
async def test_a_final_answer_while_the_client_uploads(world: World, framing: bytes, piece: bytes):
    """It is relayed at once and says `close`; the upload goes nowhere any more."""

    async def early(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(ok(b"enough", status=b"413 Content Too Large"))

    world.script = early
    async with connected(world.port) as client:
        await client.send(request(b"POST", b"/", framing) + piece)
        answer = await client.answer()
        assert (413, b"enough", b"close") == (answer.status, answer.body, answer.field(b"Connection"))
        await client.send(piece)
        await (await world.connection()).gone()
    assert [] == world.requests


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        row(b"206 Partial Content", [b"Range: bytes=0-3", b'If-Range: "a"'], id="R50-range"),
        row(b"304 Not Modified", [b'If-None-Match: "a", W/"b"'], id="R50-if-none-match"),
        row(b"412 Precondition Failed", [b"If-Match: *", b"If-Unmodified-Since: x"], id="R50-if-match"),
        row(b"416 Range Not Satisfiable", [b"Range: lines=1-"], id="R50-unknown-range"),
        row(b"200 OK", [b"Cache-Control: only-if-cached, no-store", b"Pragma: no-cache"], id="R50-cache-control"),
        row(b"307 Temporary Redirect", [b"X-Never: followed"], id="R50-redirect"),
        row(b"504 Gateway Timeout", [b"Prefer: respond-async"], id="R50-their-504"),
    ],
)
@shared
async def test_conditions_are_for_the_upstream(world: World, status: bytes, fields: list[bytes]):
    """They go on as they came, and so does what the upstream says to them, problems that look like ours included."""
    theirs = [b'ETag: "a"', b"Content-Range: bytes 0-3/9", b"Age: 7", b"Cache-Control: public", b"Date: x"]
    body = b"" if status.startswith(b"304") else b"fine"
    world.says(ok(body, *theirs, status=status))
    answer = await world.ask(request(b"GET", b"/", *fields))
    onward = [line for line in world.requests[-1].split(b"\r\n") if line in fields]
    assert fields == onward
    lines = answer.head.split(b"\r\n")
    assert b"HTTP/1.1 " + status == lines[0]
    assert theirs == [line for line in lines if line in theirs]
    assert body == answer.body


# ---- on both event loops


@on_both_loops
async def test_R43_a_client_that_half_closes_gets_its_answers(tmp_path: Path):
    """It has sent all it wants to: its answers come, pipelined ones too, then the connection ends."""

    async def slow(connection: ScriptedConnection) -> None:
        while True:
            await connection.request()
            await connection.stall()
            connection.send(ok(b"fine"))

    post = request(b"POST", b"/", body=b"x" * 300_000)  # more than is read at once
    async with ScriptedUpstream(slow) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for data, answers in ((GET, 1), (post, 1), (GET * 3, 3), (post + GET, 2), (GET + b"GET / HT", 1)):
            async with connected(gateway.port) as client:
                await client.send(data)
                client.writer.write_eof()
                upstream.go_on(answers)
                assert [(200, b"fine")] * answers == [
                    ((answer := await client.answer()).status, answer.body) for _ in range(answers)
                ]
                assert await client.closed()
        await until(lambda: gateway.gateway.server.open_connections == 0)


@on_both_loops
async def test_R43_who_half_closed_may_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Nobody can tell the one from the other: if no answer begins in time, the client counts as one that left."""
    monkeypatch.setattr(general, "HALF_CLOSED_S", 0.2)
    caplog.set_level(logging.INFO, "proxy.access")
    async with ScriptedUpstream(silent) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        client = await RawClient.connect(gateway.port)
        await client.send(GET)
        await client.close()
        await (await upstream.connection()).gone()
        await until(lambda: any(record.name == "proxy.access" for record in caplog.records))
        assert 1 == await gateway.sample("bearer_proxy_http_requests_total", route="all", method="GET", code="499")


@on_both_loops
async def test_R43_an_answer_that_has_begun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However long it takes: only its beginning is waited for no longer than so."""
    monkeypatch.setattr(general, "HALF_CLOSED_S", 0.1)

    async def slow(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")
        await connection.stall()
        connection.send(b"ne")

    async with (
        ScriptedUpstream(slow) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(GET)
        client.writer.write_eof()
        await client.answer(head_only=True)
        await asyncio.sleep(0.4)  # noqa: TID251  # past the time in which it had to begin
        upstream.go_on()
        assert b"fine" == await client.reader.read()


@on_both_loops
async def test_R43_the_idle_time_does_not_end_a_request(tmp_path: Path):
    """The time between two requests has nothing to do with how long one takes (aiohttp#9138)."""

    async def slow(connection: ScriptedConnection) -> None:
        while True:
            await connection.request()
            await connection.stall()
            connection.send(ok(b"fine"))

    top = "limits: {keepalive_timeout: 200ms}"
    async with (
        ScriptedUpstream(slow) as upstream,
        in_front_of(upstream.port, tmp_path, top=top) as gateway,
        connected(gateway.port) as client,
    ):
        for _ in range(2):
            await client.send(GET)
            await asyncio.sleep(0.4)  # noqa: TID251  # twice the time
            upstream.go_on()
            assert 200 == (await client.answer()).status
        assert await client.closed()


@on_both_loops
async def test_R15_an_unasked_101_with_a_transfer_coding(tmp_path: Path):
    """502, and nobody waits for its chunks (aiohttp#3798)."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nTransfer-Encoding: chunked\r\nConnection: upgrade\r\n\r\n"
    async with (
        ScriptedUpstream(answering(switching), always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, route="retries: {connect: 0}") as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(GET)
        assert 502 == (await client.answer()).status
        await client.send(GET)
        assert 200 == (await client.answer()).status


@on_both_loops
async def test_R37_an_abort_reaches_both_sides(tmp_path: Path):
    """A cut response is seen by the client, a client's reset by the upstream; the next exchange is untouched."""

    async def cut(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await connection.stall()
        connection.reset()

    async with (
        ScriptedUpstream(cut, silent, always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
    ):
        async with connected(gateway.port) as client:
            await client.send(GET)
            await client.answer(head_only=True)
            assert b"hello" == await client.reader.readexactly(5)
            upstream.go_on()
            assert await client.closed()
        async with connected(gateway.port) as client:
            await client.send(GET)
            await (await upstream.connection(1)).request()
        await upstream.connections[1].gone()
        async with connected(gateway.port) as client:
            await client.send(GET)
            assert b"fine" == (await client.answer()).body
