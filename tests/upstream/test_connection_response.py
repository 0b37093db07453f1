"""What a connection makes of the octets of a response."""

from __future__ import annotations

import pytest

from proxy.errors import ErrorType, GatewayError, Retry, Side
from proxy.http1.framing import BodyKind, Framing
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, answering, ok
from tests.upstream.recording_sink import GET, RecordingOwner, RecordingSink, connect, exchange, start

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5;x=y\r\npedia\r\n0\r\nTrailer: t\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answered(answer: bytes, request: bytes = GET, **limits: int) -> tuple[RecordingSink, bool]:
    """Returns what the sink of one exchange was told, and whether the connection may serve again."""
    async with ScriptedUpstream(answering(answer)) as upstream:
        connection = await connect(upstream.port, **limits)
        sink = await exchange(connection, request)
        reusable = connection.reusable
        connection.abort()
        return sink, reusable


def failed(sink: RecordingSink) -> tuple[ErrorType, Side, Retry]:
    assert sink.error is not None
    return sink.error.error_type, sink.error.side, sink.error.retry


async def test_a_response_of_known_length():
    """Head and body come as they were sent, and the connection can serve again."""
    sink, reusable = await answered(ok(b"hello", b'ETag: W/"\xe9"', b"x-a:  b "))

    assert sink.head is not None
    assert (sink.head.version, sink.head.status, sink.head.reason) == ((1, 1), 200, b"OK")
    assert sink.head.fields == ((b"Content-Length", b"5"), (b"ETag", b'W/"\xe9"'), (b"x-a", b"b"))
    assert sink.framing == Framing(BodyKind.LENGTH, 5)
    assert sink.body == b"hello"
    assert reusable


async def test_a_chunked_response():
    """The body comes without its coding; extensions and trailers are dropped."""
    sink, reusable = await answered(CHUNKED)

    assert sink.framing == Framing(BodyKind.CHUNKED)
    assert (sink.body, sink.ended, reusable) == (b"Wikipedia", True, True)


async def test_a_response_that_ends_with_its_connection():
    """It ends well when the connection does, and nothing is left to be used again."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        upstream.send(b"the end")
        upstream.close()

    owner = RecordingOwner()
    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port, owner)
        sink = await exchange(connection)

        assert sink.framing == Framing(BodyKind.UNTIL_CLOSE)
        assert (sink.body, sink.ended, connection.reusable) == (b"until the end", True, False)
        await owner.all_gone()


@pytest.mark.parametrize(
    "answer", [ok(b"hello"), CHUNKED, b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + ok(b"hello")]
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_a_response_in_pieces(answer: bytes, size: int):
    """However it was cut on the way, the sink is told the same."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        await upstream.send_slowly(answer, size)

    whole, _ = await answered(answer)
    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        sink = await exchange(connection)
        connection.abort()

    assert (sink.head, sink.framing, sink.body, sink.informational, sink.ended) == (
        whole.head,
        whole.framing,
        whole.body,
        whole.informational,
        True,
    )


@pytest.mark.parametrize(
    ("request_head", "answer"),
    [
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_a_response_without_a_body(request_head: bytes, answer: bytes):
    """It ends with its head, and the next response on the connection is read from its own first octet."""
    async with ScriptedUpstream(answering(answer, ok(b"next"))) as upstream:
        connection = await connect(upstream.port)
        first = await exchange(connection, request_head)
        second = await exchange(connection)
        connection.abort()

    assert first.calls == ["on_head", "on_end"]
    assert second.body == b"next"


@pytest.mark.parametrize("request_head", [HEAD, GET])
async def test_a_body_where_there_can_be_none(request_head: bytes):
    """HEAD and 204 with a body: the response is delivered, what follows it is never read as the next one."""
    answer = b"HTTP/1.1 %b\r\nContent-Length: 4\r\n\r\nbody" % (
        b"200 OK" if request_head is HEAD else b"204 No Content"
    )
    sink, reusable = await answered(answer, request_head)

    assert (sink.ended, sink.body, reusable) == (True, b"", False)


async def test_interim_responses():
    """100 is swallowed, others are passed on in order, and the final response follows."""
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    )
    sink, reusable = await answered(interim + ok(b"x"))

    assert sink.informational == [103, 102]
    assert sink.calls == ["on_informational", "on_informational", "on_head", "on_data", "on_end"]
    assert reusable


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "http_protocol_error", id="101 unasked"
        ),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, "http_protocol_error", id="interim without end"),
        pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", "http_protocol_error", id="another version"),
        pytest.param(b"HTTP/1.1 000 Zero\r\n\r\n", "http_protocol_error", id="status 000"),
        pytest.param(b"HTTP/1.1 999 Much\r\n\r\n", "http_protocol_error", id="status 999"),
        pytest.param(b"220 smtp.example ESMTP\r\n\r\n", "http_protocol_error", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\nA: b\n\n", "http_protocol_error", id="bare LF"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "http_protocol_error", id="folded line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", "http_protocol_error", id="control"),
        pytest.param(ok(b"", b"Content-Length: 0"), "http_protocol_error", id="two lengths alike"),
        pytest.param(ok(b"abc", b"Content-Length: 4"), "http_protocol_error", id="two lengths"),
        pytest.param(ok(b"abc", b"Transfer-Encoding: chunked"), "http_protocol_error", id="length and chunked"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "http_protocol_error",
            id="gzip, chunked",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x4\r\nWiki\r\n",
            "http_protocol_error",
            id="chunk size",
        ),
    ],
)
async def test_what_is_not_a_response(answer: bytes, word: str):
    """The exchange fails with the upstream's fault and is not to be repeated; nothing ends as if it were whole."""
    sink, reusable = await answered(answer)

    assert failed(sink) == (ErrorType(word), Side.UPSTREAM, Retry.NEVER)
    assert not reusable


@pytest.mark.parametrize("pieces", [1, 3, 5000])
async def test_a_head_without_end(pieces: int):
    """It is given up at the bound, not held until memory is full; one just below passes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: %b\r\n\r\n"
    limit = 1000
    fits = head % (b"x" * (limit - len(head % b"")))

    sink, _ = await answered(fits, max_head_octets=limit)
    assert sink.ended

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        await upstream.send_slowly(fits[:-4] + b"x\r\n\r\n", max(1, limit // pieces))

    async with ScriptedUpstream(script) as upstream:
        sink = await exchange(await connect(upstream.port, max_head_octets=limit))

    assert failed(sink)[0] is ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE


async def test_too_many_fields():
    """One more than the bound is one too many."""
    fields = [b"A%d: b" % number for number in range(9)]

    sink, _ = await answered(ok(b"", *fields), max_fields=10)
    assert sink.ended
    sink, _ = await answered(ok(b"", *fields, b"Last: one"), max_fields=10)
    assert failed(sink)[0] is ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="in the head"),
        pytest.param(ok(b"hello")[:-1], id="one octet short"),
        pytest.param(CHUNKED[:-2], id="before the last line of the chunked coding"),
        pytest.param(CHUNKED[:60], id="in a chunk"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="after an interim response"),
    ],
)
@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
async def test_a_response_that_is_cut_off(answer: bytes, how: str):
    """It never ends as if it were whole, and is not to be repeated: the upstream has acted on the request."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(answer)
        await upstream.stall()
        getattr(upstream, how)()

    owner = RecordingOwner()
    async with ScriptedUpstream(script) as upstream:
        sink = start(await connect(upstream.port, owner))
        await upstream.until(lambda: upstream.stalled == 1)
        upstream.go_on()
        await sink.end()

        assert failed(sink) == (ErrorType.HTTP_RESPONSE_INCOMPLETE, Side.UPSTREAM, Retry.NEVER)
        await owner.all_gone()


async def test_a_body_until_close_that_is_reset():
    """A reset is no end: the body may have gone on."""

    async def script(upstream: ScriptedConnection) -> None:
        await upstream.request()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await upstream.stall()
        upstream.reset()

    async with ScriptedUpstream(script) as upstream:
        sink = start(await connect(upstream.port))
        await sink.until(lambda: sink.body == b"some")
        upstream.go_on()
        await sink.end()

    assert failed(sink) == (ErrorType.HTTP_RESPONSE_INCOMPLETE, Side.UPSTREAM, Retry.NEVER)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_connection_that_closes_before_the_response(how: str, reused: bool):
    """Only on a connection that was used before does it say that the request may be sent again."""

    async def script(upstream: ScriptedConnection) -> None:
        if reused:
            await upstream.request()
            upstream.send(ok())
        await upstream.request()
        getattr(upstream, how)()

    async with ScriptedUpstream(script) as upstream:
        connection = await connect(upstream.port)
        if reused:
            await exchange(connection)
        sink = await exchange(connection)

    retry = Retry.REUSED_CONNECTION if reused else Retry.NEVER
    assert failed(sink) == (ErrorType.CONNECTION_TERMINATED, Side.UPSTREAM, retry)


async def test_a_request_on_a_connection_that_has_closed():
    """Nothing is sent, and the failure says so."""
    owner = RecordingOwner()
    async with ScriptedUpstream() as upstream:
        connection = await connect(upstream.port, owner)
        (await upstream.connection()).close()
        await owner.all_gone()

        with pytest.raises(GatewayError) as caught:
            start(connection)
        assert (caught.value.error_type, caught.value.retry) == (ErrorType.CONNECTION_TERMINATED, Retry.NOTHING_SENT)
        assert upstream.received == [b""]
