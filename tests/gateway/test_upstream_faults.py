"""Upstreams that close, reset, stall, cut off and talk nonsense: what the client gets, and what operators see of it.

The whole gateway, between raw octets of a client and raw octets of an upstream.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from proxy.tasks import Tasks
from tests.support.both_loops import on_both_loops
from tests.support.flaky_upstream import FlakyUpstream, Whim
from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.gateway import RunningGateway
from tests.support.raw_client import Answer, RawClient, ask
from tests.support.scripted_upstream import Script, ScriptedConnection, ScriptedUpstream, always, answering, early, ok

GET = request()
TOTAL = f"{ONE_TRY}\ntimeouts: {{total: 800ms}}"
SHORT = f"{ONE_TRY}\ntimeouts: {{connect: 5s, first_byte: 300ms, idle: 300ms}}"


# ---- an upstream that closes as it likes


@on_both_loops
async def test_2000_requests_to_an_upstream_that_closes_at_random(tmp_path: Path):
    """No GET fails. Each POST arrives once, or not at all, and then its client was told so with 502."""
    random = Random(20)
    requests = [(random.choice(["GET", "POST"]), b"n%d" % number) for number in range(2000)]
    statuses: dict[bytes, int] = {}
    bodies: dict[bytes, bytes] = {}

    async def client_of(port: int, mine: list[tuple[str, bytes]]) -> None:
        async with connected(port) as client:
            for method, nonce in mine:
                body = b"order " + nonce if method == "POST" else b""
                await client.send(request(method.encode(), b"/n/" + nonce, body=body))
                answer = await client.answer()
                statuses[nonce], bodies[nonce] = answer.status, answer.body

    async with FlakyUpstream(random) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        async with asyncio.timeout(50):
            await asyncio.gather(*(client_of(gateway.port, requests[start::20]) for start in range(20)))

    gets = [nonce for method, nonce in requests if method == "GET"]
    posts = [nonce for method, nonce in requests if method == "POST"]
    assert {200} == {statuses[nonce] for nonce in gets}
    assert {200, 502} == {statuses[nonce] for nonce in posts}
    assert [] == [nonce for nonce in bodies if statuses[nonce] == 200 and bodies[nonce] != nonce]
    assert [] == [nonce for nonce in posts if upstream.arrived[nonce] > 1]
    assert [] == [nonce for nonce in posts if upstream.arrived[nonce] == 0 and statuses[nonce] != 502]
    # the trouble was there: connections were closed in each way, and requests of both kinds crossed with a close
    assert all(upstream.whims[whim] > 10 for whim in Whim)
    assert any(upstream.ignored[nonce] for nonce in gets)
    assert any(upstream.ignored[nonce] for nonce in posts)


@pytest.mark.parametrize("arrives", ["in one piece with the answer", "in a piece of its own", "on an idle connection"])
@on_both_loops
async def test_an_answer_that_nobody_asked_for(tmp_path: Path, arrives: str):
    """Whenever it comes, the next client gets its own answer, over another connection."""
    stray = ok(b"stray")

    async def talkative(connection: ScriptedConnection) -> None:
        while True:
            nonce = (await connection.request()).split(b" ")[1]
            if arrives == "in one piece with the answer":
                connection.send(ok(nonce) + stray)
            else:
                connection.send(ok(nonce))
                if arrives == "in a piece of its own":
                    connection.send(stray)

    async with (
        ScriptedUpstream(talkative) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        for number in range(50):
            await client.send(request(target=b"/%d" % number))
            answer = await client.answer()
            assert (200, b"/%d" % number) == (answer.status, answer.body)
            if arrives == "on an idle connection":
                upstream.connections[-1].send(stray)  # it lies in the gateway's socket when the next request comes
        assert 50 == len(upstream.connections)
        assert [1] * 50 == [len(connection.requests) for connection in upstream.connections]


# ---- the table: what is wrong, and what each side is told


@dataclass(frozen=True)
class Fault:
    """What an upstream does, and what becomes of it."""

    script: Script
    status: int
    suffix: str
    error: str
    route: str = ONE_TRY
    request: bytes = GET


def sends(octets: bytes, *, then: str = "stall") -> Script:
    """Returns a script that answers a request with these octets and then stalls, closes or resets."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(octets)
        if then == "close":
            connection.close()
        elif then == "reset":
            connection.reset()

    return script


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


def unreachable(octets: bytes = b"", then: str = "close") -> Fault:
    return Fault(sends(octets, then=then), 502, "upstream-unreachable", "connection_terminated")


def nonsense(octets: bytes, error: str = "http_protocol_error") -> Fault:
    return Fault(sends(octets), 502, "upstream-protocol", error)


FAULTS = {
    "closed before the answer": unreachable(),
    "reset before the answer": unreachable(then="reset"),
    "closed within the head": Fault(
        sends(b"HTTP/1.1 200 OK\r\nContent-", then="close"), 502, "upstream-protocol", "http_response_incomplete"
    ),
    "closed after an interim response": Fault(
        sends(head(status=b"HTTP/1.1 103 Early Hints"), then="close"),
        502, "upstream-protocol", "http_response_incomplete",
    ),
    "no HTTP": nonsense(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "no status": nonsense(head(status=b"HTTP/1.1 OK")),
    "status 999": nonsense(head(status=b"HTTP/1.1 999 ?")),
    "HTTP/2.0": nonsense(head(status=b"HTTP/2.0 200 OK")),
    "bare line feeds": nonsense(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n"),
    "a folded line": nonsense(head(b"X: a", b" b", b"Content-Length: 0")),
    "a control in a field": nonsense(head(b"X: a\x01b", b"Content-Length: 0")),
    "space before a colon": nonsense(head(b"X : a", b"Content-Length: 0")),
    "two lengths": nonsense(head(b"Content-Length: 1", b"Content-Length: 2") + b"ab"),
    "a length of letters": nonsense(head(b"Content-Length: many")),
    "a length and chunks": nonsense(head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "an unknown transfer coding": nonsense(head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "101 unasked": nonsense(head(b"Connection: upgrade", b"Upgrade: x", status=b"HTTP/1.1 101 Switching Protocols")),
    "no end of interim responses": nonsense(head(status=b"HTTP/1.1 102 Processing") * 100),
    "a head of 100 KB in one field": nonsense(head(b"X: " + b"a" * 100_000), "http_response_header_section_size"),
    "a head of 100 KB without an end": nonsense(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 17_000, "http_response_header_section_size"),
    "500 fields": nonsense(head(*[b"X: a"] * 500), "http_response_header_section_size"),
    "no answer": Fault(sends(b""), 504, "upstream-timeout", "http_response_timeout", route=SHORT),
    "no answer to a body": Fault(
        sends(b""), 504, "upstream-timeout", "http_response_timeout", route=SHORT,
        request=request(b"POST", body=b"order"),
    ),
    "half a head": Fault(
        sends(b"HTTP/1.1 200 OK\r\nX:"), 504, "upstream-timeout", "http_response_timeout", route=SHORT
    ),
    "interim responses only": Fault(
        sends(head(status=b"HTTP/1.1 102 Processing") * 3), 504, "upstream-timeout", "http_response_timeout",
        route=SHORT,
    ),
    "no answer in the total time": Fault(
        sends(b""), 504, "upstream-timeout", "http_response_timeout", route=f"{ONE_TRY}\ntimeouts: {{total: 300ms}}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in FAULTS.items()])
@on_both_loops
async def test_a_fault_before_the_answer(tmp_path: Path, fault: Fault):
    """The client gets the problem that stands for it; operators see its type, once; the connection serves no more."""
    async with (
        ScriptedUpstream(fault.script, always(ok(b"fine"))) as upstream,
        in_front_of(upstream.port, tmp_path, route=fault.route) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(fault.request)
        answer = await final_answer(client)
        expect_problem(answer, fault.status, fault.suffix, fault.error)
        await expect_counted(gateway, fault.error)
        assert 1.0 == await gateway.sample("bearer_proxy_requests_refused_total", reason=fault.suffix)
        await (await upstream.connection()).gone()

        await client.send(GET)  # the client's connection is as good as before
        answer = await client.answer()
        assert (200, b"fine") == (answer.status, answer.body)


@on_both_loops
async def test_nobody_listens(tmp_path: Path):
    """connection_refused; a fault that nothing was sent in is tried again, and each try is counted."""
    with socket.socket() as taken:  # bound, so that nobody else gets the port, and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with in_front_of(port, tmp_path, route=ONE_TRY) as gateway:
            expect_problem(await ask(gateway.port, GET), 502, "upstream-unreachable", "connection_refused")
            await expect_counted(gateway, "connection_refused")
        async with in_front_of(port, tmp_path) as gateway:
            post = request(b"POST", body=b"order")
            expect_problem(await ask(gateway.port, post), 502, "upstream-unreachable", "connection_refused")
            await expect_counted(gateway, "connection_refused", 3)


@dataclass(frozen=True)
class Truncation:
    """A body that is not whole: what comes of it, and how it ends: octets that are wrong, or an action."""

    octets: bytes
    then: bytes | str
    error: str
    route: str = ONE_TRY


LENGTH = head(b"Content-Length: 10") + b"hello"
CHUNKS = head(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n"
TRUNCATIONS = {
    "a length, closed": Truncation(LENGTH, "close", "http_response_incomplete"),
    "a length, reset": Truncation(LENGTH, "reset", "http_response_incomplete"),
    "a length, stalled": Truncation(LENGTH, "stall", "connection_read_timeout", route=SHORT),
    "a length, out of time": Truncation(LENGTH, "stall", "http_response_timeout", route=TOTAL),
    "chunks, closed": Truncation(CHUNKS, "close", "http_response_incomplete"),
    "chunks, closed within one": Truncation(CHUNKS + b"5\r\nwo", "close", "http_response_incomplete"),
    "chunks, closed in the last one": Truncation(CHUNKS + b"0\r\n", "close", "http_response_incomplete"),
    "chunks, stalled": Truncation(CHUNKS, "stall", "connection_read_timeout", route=SHORT),
    "chunks, then none": Truncation(CHUNKS, b"what?\r\n", "http_protocol_error"),
    "chunks, longer than said": Truncation(CHUNKS, b"2\r\nlonger\r\n", "http_protocol_error"),
    "until the end, reset": Truncation(head() + b"hello", "reset", "http_response_incomplete"),
    "until the end, stalled": Truncation(head() + b"hello", "stall", "connection_read_timeout", route=SHORT),
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("truncation", [pytest.param(row, id=name) for name, row in TRUNCATIONS.items()])
@on_both_loops
async def test_a_body_that_is_not_whole(tmp_path: Path, truncation: Truncation, version: bytes):
    """The client sees it: a length not reached, a last chunk that is missing, or, where only the end ends it, a reset."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(truncation.octets)
        await connection.stall()  # so that the client has the head before the end
        if isinstance(truncation.then, bytes):
            connection.send(truncation.then)
        elif truncation.then == "close":
            connection.close()
        elif truncation.then == "reset":
            connection.reset()

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path, route=truncation.route) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(version=version))
        answer = await client.answer(head_only=True)
        assert 200 == answer.status
        upstream.go_on()
        octets, reset = await everything(client)
        assert b"hello" in octets
        if answer.field(b"Content-Length") is not None:
            assert b"10" == answer.field(b"Content-Length")
            assert len(octets) < 10
        elif answer.field(b"Transfer-Encoding") is not None:
            assert b"1.1" == version
            assert not octets.endswith(b"0\r\n\r\n")
        else:
            assert b"1.0" == version
            assert reset
        await expect_counted(gateway, truncation.error)


# ---- uploads


@pytest.mark.parametrize("framing", ["length", "chunks"])
@on_both_loops
async def test_a_final_answer_while_the_client_uploads(tmp_path: Path, framing: str):
    """It is relayed and says `close`; the upstream's connection ends, without the end of a body that was not sent."""
    async with (
        ScriptedUpstream(early(ok(b"enough", status=b"413 Content Too Large"), after=2000)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        fields = b"Content-Length: 1000000" if framing == "length" else b"Transfer-Encoding: chunked"
        piece = b"x" * 5000 if framing == "length" else b"1388\r\n" + b"x" * 5000 + b"\r\n"
        await client.send(request(b"POST", b"/", fields) + piece)
        answer = await client.answer()
        assert (413, b"enough", b"close") == (answer.status, answer.body, answer.field(b"Connection"))
        await client.send(piece)  # still in the middle of it
        connection = await upstream.connection()
        await connection.gone()
        assert not connection.received.endswith(b"0\r\n\r\n")
        assert connection.received.count(b"x") < 1_000_000


@on_both_loops
async def test_an_upstream_that_answers_early_and_resets(tmp_path: Path):
    """An answer that was sent before the reset is relayed, whatever the reset did to the upload."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(2000)
        connection.stop_reading()
        connection.send(ok(b"no", status=b"403 Forbidden"))
        connection.close()  # with octets unread: a reset follows the answer

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
        uploading(client, 8_000_000),
    ):
        answer = await client.answer()
        assert (403, b"no") == (answer.status, answer.body)


@on_both_loops
async def test_an_upstream_that_never_reads_the_upload(tmp_path: Path):
    """504, connection_write_timeout, once it took nothing for so long; the upload is not swallowed meanwhile."""

    async def script(connection: ScriptedConnection) -> None:
        connection.stop_reading()

    async with (
        ScriptedUpstream(script, receive_buffer=16_384) as upstream,
        in_front_of(upstream.port, tmp_path, route=SHORT) as gateway,
        connected(gateway.port) as client,
        uploading(client, 100_000_000),
    ):
        expect_problem(await client.answer(), 504, "upstream-timeout", "connection_write_timeout")
        await expect_counted(gateway, "connection_write_timeout")
        assert 20_000_000 > await gateway.sample("bearer_proxy_request_body_bytes_total", route="all")


@pytest.mark.parametrize("ends", ["closes", "resets"])
@on_both_loops
async def test_an_upstream_that_dies_within_the_upload(tmp_path: Path, ends: str):
    """502, connection_terminated; a POST is not sent again, for some of it may have been processed."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.received_octets(2000)
        if ends == "resets":
            connection.reset()
        else:
            connection.close()

    async with (
        ScriptedUpstream(script) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
        uploading(client, 1_000_000),
    ):
        expect_problem(await client.answer(), 502, "upstream-unreachable", "connection_terminated")
        await expect_counted(gateway, "connection_terminated")
        assert 1 == len(upstream.connections)


# ---- interim responses, and answers without a body


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@on_both_loops
async def test_early_hints(tmp_path: Path, version: bytes):
    """A 103 is passed to HTTP/1.1 clients, without connection-specific fields, and to others not at all."""
    hints = head(b"Link: </a.css>", b"Connection: x", b"X: y", status=b"HTTP/1.1 103 Early Hints")
    upstream_says = head(status=b"HTTP/1.1 100 Continue") + hints + ok(b"fine")
    async with (
        ScriptedUpstream(answering(upstream_says)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(version=version))
        if version == b"1.1":
            interim = await client.answer()
            assert (103, b"</a.css>", None) == (interim.status, interim.field(b"Link"), interim.field(b"X"))
        answer = await client.answer()
        assert (200, b"fine") == (answer.status, answer.body)


@on_both_loops
async def test_answers_without_a_body_keep_the_connections_in_step(tmp_path: Path):
    """HEAD, 204 and 304, whatever lengths they tell: the next answer on the same connections is the right one."""
    bodiless = [
        (b"HEAD", head(b"Content-Length: 1000"), (200, b"1000")),
        (b"HEAD", head(b"Transfer-Encoding: chunked"), (200, None)),
        (b"GET", head(status=b"HTTP/1.1 204 No Content"), (204, None)),
        (b"GET", head(b"Content-Length: 0", status=b"HTTP/1.1 204 No Content"), (204, None)),
        (b"GET", head(b"Content-Length: 1000", b'ETag: "a"', status=b"HTTP/1.1 304 Not Modified"), (304, b"1000")),
        (b"GET", head(b"Content-Length: 0"), (200, b"0")),
    ]
    answers = [octets for _, answer, _ in bodiless for octets in (answer, ok(b"a body"))]
    async with (
        ScriptedUpstream(answering(*answers)) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
        connected(gateway.port) as client,
    ):
        for method, _, expected in bodiless:
            await client.send(request(method))
            answer = await client.answer(head_only=method == b"HEAD")
            assert expected == (answer.status, answer.field(b"Content-Length"))
            assert answer.field(b"Transfer-Encoding") is None
            await client.send(GET)
            answer = await client.answer()
            assert (200, b"a body") == (answer.status, answer.body)
        assert 1 == len(upstream.connections)


@on_both_loops
async def test_a_body_where_none_may_be(tmp_path: Path):
    """A body behind HEAD, 204 or 304 is nobody's: it goes nowhere, and that upstream connection is not used again."""
    wrong = [
        (b"HEAD", ok(b"surprise")),
        (b"GET", head(b"Content-Length: 8", status=b"HTTP/1.1 204 No Content") + b"surprise"),
        (b"GET", head(b"Content-Length: 8", status=b"HTTP/1.1 304 Not Modified") + b"surprise"),
    ]
    scripts = [script for _, answer in wrong for script in (answering(answer), answering(ok(b"mine"), ok(b"mine")))]
    async with (
        ScriptedUpstream(*scripts) as upstream,
        in_front_of(upstream.port, tmp_path, route="pool: {max_idle: 0}") as gateway,
        connected(gateway.port) as client,
    ):
        for method, _ in wrong:
            await client.send(request(method))
            assert (await client.answer(head_only=True)).status in {200, 204, 304}
            await client.send(GET)
            assert b"mine" == (await client.answer()).body
        assert len(scripts) == len(upstream.connections)


@pytest.mark.parametrize(
    "upstream_says",
    [
        pytest.param(head(b"Transfer-Encoding: chunked") + b"3\r\nfir\r\n2\r\nst\r\n0\r\n\r\n", id="chunks"),
        pytest.param(head(b"Transfer-Encoding: chunked") + b"5;x=y\r\nfirst\r\n0\r\nT: t\r\n\r\n", id="trailers"),
        pytest.param(head() + b"first", id="until the end"),
    ],
)
@on_both_loops
async def test_a_body_of_unknown_length(tmp_path: Path, upstream_says: bytes):
    """HTTP/1.1 clients get chunks and keep their connection; HTTP/1.0 clients get octets until the connection ends."""
    async with (
        ScriptedUpstream(sends(upstream_says, then="close")) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
    ):
        async with connected(gateway.port) as client:
            for _ in range(2):
                await client.send(GET)
                answer = await client.answer()
                assert (b"first", b"chunked") == (answer.body, answer.field(b"Transfer-Encoding"))
                assert answer.field(b"Content-Length") is None
        answer = await ask(gateway.port, request(b"GET", b"/", b"Connection: keep-alive", version=b"1.0"))
        assert (b"first", b"close") == (answer.body, answer.field(b"Connection"))
        assert (None, None) == (answer.field(b"Transfer-Encoding"), answer.field(b"Content-Length"))


# ---- helpers


def expect_problem(answer: Answer, status: int, suffix: str, error: str) -> None:
    """Checks a problem document, and that it says nothing but what it may."""
    document = json.loads(answer.body)
    assert (status, status, f"urn:bearer-proxy:problem:{suffix}") == (
        answer.status, document["status"], document["type"],
    )  # fmt: skip
    assert {"type", "title", "status", "request_id"} == set(document)
    assert f"bearer-proxy; error={error}".encode() == answer.field(b"Proxy-Status")
    assert b"application/problem+json" == answer.field(b"Content-Type")
    assert len(answer.body) <= 512


async def expect_counted(gateway: RunningGateway, error: str, times: int = 1) -> None:
    """Checks that failures of this one type were counted, and so often."""
    samples = await gateway.samples()
    counted = Counter(
        {
            dict(labels)["error"]: value
            for (name, labels), value in samples.items()
            if name == "bearer_proxy_upstream_errors_total"
        }
    )
    assert {error: times} == +counted


async def final_answer(client: RawClient) -> Answer:
    while (answer := await client.answer()).status < 200:
        pass
    return answer


async def everything(client: RawClient) -> tuple[bytes, bool]:
    """Reads until the connection ends; tells whether it ended with a reset."""
    octets = b""
    while True:
        try:
            data = await client.reader.read(65_536)
        except ConnectionResetError:
            return octets, True
        if not data:
            return octets, False
        octets += data


@asynccontextmanager
async def uploading(client: RawClient, size: int) -> AsyncIterator[None]:
    """Sends a POST with a body of so many octets meanwhile, for as long as somebody takes them."""
    tasks = Tasks()
    tasks.start(_upload(client, size), name="upload")
    try:
        yield
    finally:
        await tasks.stop()


async def _upload(client: RawClient, size: int) -> None:
    piece = b"x" * 50_000
    with suppress(ConnectionError):
        await client.send(request(b"POST", b"/", b"Content-Length: %d" % size))
        for _ in range(size // len(piece)):
            await client.send(piece)
