"""R31 to R40: where a body ends, of requests and of responses."""

from __future__ import annotations

import pytest

from tests.gateway.http.world import GET, World, row, suffix
from tests.support.fronting import connected, request
from tests.support.gateway import Taken
from tests.support.raw_client import RawClient
from tests.support.scripted_upstream import ScriptedConnection, ok

pytestmark = pytest.mark.asyncio(loop_scope="module")

CL3 = b"Content-Length: 3"
CHUNKED = b"Transfer-Encoding: chunked"
ABC = b"3\r\nabc\r\n0\r\n\r\n"


def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return request(b"POST", b"/", *fields, version=version) + body


# ---- which framing


@pytest.mark.parametrize(
    "fields",
    [
        row([CL3, CHUNKED], id="R31-cl-and-te"),
        row([CHUNKED, CL3], id="R31-te-and-cl"),
        row([CHUNKED, b"content-length: 0"], id="R31-te-and-cl-0"),
        row([b"Content-Length: 3, 3"], id="R32-list"),
        row([b"Content-Length: +3"], id="R32-plus"),
        row([b"Content-Length: -1"], id="R32-minus"),
        row([b"Content-Length: 0x3"], id="R32-hexadecimal"),
        row([b"Content-Length: 3 3"], id="R32-two-numbers"),
        row([b"Content-Length:"], id="R32-empty"),
        row([b"Content-Length: 99999999999999999999"], id="R32-overflow"),
        row([b"Content-Length: 1_0"], id="R32-underscore"),
        row([b"Content-Length: 3.0"], id="R32-fraction"),
        row([b"Content-Length: \xb2"], id="R32-superscript"),
        row([CL3, CL3], id="R32-twice-the-same"),
        row([CL3, b"Content-Length: 4"], id="R32-twice-different"),
        row([b"Transfer-Encoding:"], id="R33-empty"),
        row([b"Transfer-Encoding:", CL3], id="R33-empty-and-cl"),
        row([b'Transfer-Encoding: "chunked"'], id="R33-quoted"),
        row([b"Transfer-Encoding: chunked;q=1"], id="R33-parameter"),
        row([CHUNKED, CHUNKED], id="R33-twice"),
        row([b"Transfer-Encoding: chunked, chunked"], id="R33-twice-in-a-list"),
        row([b"Transfer-Encoding: chunked, gzip"], id="R33-not-final"),
        row([CHUNKED, b"Transfer-Encoding: identity"], id="R33-not-final-in-lines"),
        row([b"Transfer-Encoding: chun ked"], id="R33-space-within"),
        row([b"Transfer-Encoding : chunked"], id="R33-space-before-colon"),
    ],
)
async def test_faulty_framing_of_a_request(world: World, fields: list[bytes]):
    """400, the connection closes, and nothing behind it is taken for a request."""
    answer = await world.refused(post(*fields, body=ABC + GET))
    assert (400, "bad-request", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


@pytest.mark.parametrize("coding", [b"xchunked", b"identity", b"gzip, chunked", b"gzip", b"deflate, gzip", b"chunkedx"])
async def test_R33_an_unknown_coding_of_a_request(world: World, coding: bytes):
    """501: it would have to be undone, or is lost on the way."""
    answer = await world.refused(post(b"Transfer-Encoding: " + coding, body=ABC + GET))
    assert (501, "not-implemented", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


@pytest.mark.parametrize(
    "data",
    [
        row(post(b"Content-Length: 03", body=b"abc"), id="R32-leading-zero"),
        row(post(b"Content-Length: 3  ", body=b"abc"), id="R32-space-at-the-end"),
        row(post(b"Content-Length:3", body=b"abc"), id="R32-no-space"),
        row(post(b"Transfer-Encoding: , chunked ,", body=ABC), id="R33-empty-members"),
        row(post(b"transfer-encoding: CHUNKED", body=ABC), id="R33-case"),
        row(post(b"Content-Length: 3", body=b"abc", version=b"1.0"), id="R34-length-in-1.0"),
    ],
)
async def test_framing_of_a_request_that_is_taken(world: World, data: bytes):
    """It goes on in the plainest form."""
    got = await world.forwarded(data)
    lengths, codings = got.values(b"Content-Length"), got.values(b"Transfer-Encoding")
    assert ([b"3"], []) == (lengths, codings) or ([], [b"chunked"]) == (lengths, codings)
    assert (b"abc" if lengths else ABC) == got.body


@pytest.mark.parametrize("fields", [row([CHUNKED], id="R34-chunked"), row([b"Transfer-Encoding: gzip"], id="R34-gzip")])
async def test_a_transfer_coding_in_1_0(world: World, fields: list[bytes]):
    """It is faulty framing: 400, and the connection closes."""
    answer = await world.refused(post(*fields, body=ABC, version=b"1.0"))
    assert (400, "bad-request", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


# ---- chunks of a request


MALFORMED_CHUNKS = [
    row(b"+3\r\nabc\r\n", id="R35-sign"),
    row(b"-3\r\nabc\r\n", id="R35-minus"),
    row(b"0x3\r\nabc\r\n", id="R35-prefix"),
    row(b" 3\r\nabc\r\n", id="R35-space-before"),
    row(b"3 \r\nabc\r\n", id="R35-space-behind"),
    row(b"3_0\r\nabc\r\n", id="R35-underscore"),
    row(b"g\r\nabc\r\n", id="R35-no-digit"),
    row(b"\r\nabc\r\n", id="R35-empty"),
    row(b";x\r\nabc\r\n", id="R35-extension-alone"),
    row(b"3\nabc\r\n", id="R35-bare-lf"),
    row(b"3\rabc\r\n", id="R35-bare-cr"),
    row(b"3\r\nabc\n0\r\n\r\n", id="R35-bare-lf-behind-data"),
    row(b"3\r\nabcd\r\n", id="R35-longer-than-said"),
    row(b"3\r\nab\r\n0\r\n\r\n", id="R35-shorter-than-said"),
    row(b"ffffffffffffffffff\r\nabc\r\n", id="R35-overflow"),
    row(b"8000000000000000\r\nabc\r\n", id="R35-overflow-by-one"),
    row(b"3;a\x00b\r\nabc\r\n", id="R35-nul-in-an-extension"),
    row(b"3;a\nb\r\nabc\r\n", id="R35-lf-in-an-extension"),
    row(b"3;" + b"x" * 5000 + b"\r\nabc\r\n", id="R35-long-extension"),
    row(b"3;" + b"x" * 65_536, id="R35-extension-of-64-KiB"),
    row((b"1;" + b"x" * 2000 + b"\r\na\r\n") * 12, id="R35-many-extensions"),
    row(b"0\r\nA b: c\r\n\r\n", id="R13-malformed-trailer"),
    row(b"0\r\nA : c\r\n\r\n", id="R13-space-before-the-colon-of-a-trailer"),
    row(b"0\r\nA: b\r\n c\r\n\r\n", id="R13-folded-trailer"),
    row(b"0\r\nA: \x00\r\n\r\n", id="R13-nul-in-a-trailer"),
    row(b"0\r\nA: " + b"x" * 9000 + b"\r\n\r\n", id="R13-long-trailer"),
]


@pytest.mark.parametrize("apart", [False, True], ids=["in-one-piece", "in-a-piece-of-its-own"])
@pytest.mark.parametrize("chunks", MALFORMED_CHUNKS)
async def test_malformed_chunks(world: World, chunks: bytes, apart: bool):
    """400 at once, and the connection closes; the upstream never sees the end of that body."""
    async with connected(world.port) as client:
        if apart:
            await client.send(post(CHUNKED, body=b"5\r\nhello\r\n"))
            connection = await world.connection()
            await connection.until(lambda: b"hello" in connection.received)
            await client.send(chunks + GET)
        else:
            await client.send(post(CHUNKED, body=chunks + GET))
        answer = await client.answer()
        assert (400, "bad-request", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))
        assert await client.closed()
    for connection in world.connections:
        await connection.gone()
        assert not connection.received.endswith(b"0\r\n\r\n")
    assert [] == world.requests


@pytest.mark.parametrize(
    "chunks",
    [
        row(b'3;a;b=c;d="e;f"\r\nabc\r\n0;x\r\n\r\n', id="R35-extensions"),
        row(b"00000003\r\nabc\r\n000\r\n\r\n", id="R35-leading-zeros"),
        row(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n", id="R35-small-chunks"),
        row(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Obs: \xe9\r\n\r\n", id="R13-trailers"),
        row(
            b"3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: evil\r\nAuthorization: x\r\nTransfer-Encoding: x\r\nConnection: close\r\n\r\n",
            id="R13-trailers-that-would-act",
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_what_of_chunks_goes_on(world: World, chunks: bytes, step: int):
    """The data alone: no extension, no trailer, and none of either acts; the next request is in step."""
    async with connected(world.port) as client:
        octets = post(CHUNKED, b"Trailer: X-Sum", b"TE: trailers", body=chunks)
        head = octets.index(b"\r\n\r\n") + 4
        await client.send(octets[:head])
        for at in range(head, len(octets), step):
            await client.send(octets[at : at + step])
        assert 200 == (await client.answer()).status
        await client.send(GET)
        assert 200 == (await client.answer()).status
    first, second = world.requests
    assert second.startswith(b"GET / HTTP/1.1\r\n")
    head_octets, _, body = first.partition(b"\r\n\r\n")
    assert b"abc" == b"".join(line for line in body.split(b"\r\n") if line not in {b"1", b"2", b"3", b"0", b""})
    assert body.endswith(b"0\r\n\r\n")
    for name in (b"\r\nTrailer:", b"\r\nTE:", b"X-Sum", b"evil"):
        assert name not in head_octets + body


# ---- cut off


@pytest.mark.parametrize(
    ("framing", "part"),
    [
        row(b"Content-Length: 10", b"hello", id="R36-length"),
        row(CHUNKED, b"5\r\nhello\r\n", id="R36-chunks"),
        row(CHUNKED, b"9\r\nhello", id="R36-within-a-chunk"),
        row(CHUNKED, b"5\r\nhello\r\n0\r\n", id="R36-before-the-last-line"),
    ],
)
@pytest.mark.parametrize("ends", ["closes", "half-closes"])
async def test_a_request_that_is_cut_off(world: World, framing: bytes, part: bytes, ends: str):
    """R8: the upstream's connection is cut as well, and never gets the end of the body."""
    async with connected(world.port) as client:
        await client.send(post(framing, body=part))
        connection = await world.connection()
        await connection.until(lambda: b"hello" in connection.received)
        if ends == "half-closes":
            client.writer.write_eof()
            assert await client.closed()
    await connection.gone()
    assert not connection.received.endswith(b"0\r\n\r\n")
    assert [] == connection.requests


@pytest.mark.parametrize(
    ("head", "then"),
    [
        row(b"Content-Length: 10\r\n\r\nhello", "close", id="R37-length-closed"),
        row(b"Content-Length: 10\r\n\r\nhello", "reset", id="R37-length-reset"),
        row(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "close", id="R37-chunks-closed"),
        row(b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello", "close", id="R37-within-a-chunk"),
        row(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "close", id="R37-before-the-last-line"),
        row(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", "stall", id="R37-malformed-chunk"),
    ],
)
async def test_a_response_that_is_cut_off(world: World, head: bytes, then: str):
    """The client can tell: the length is not reached, or the last chunk is missing, and the connection closes."""
    world.says(b"HTTP/1.1 200 OK\r\n" + head, then=then)
    async with connected(world.port) as client:
        await client.send(GET)
        answer = await client.answer(head_only=True)
        if Taken.direct and b"zz" in head:
            assert 502 == answer.status  # nothing was passed on yet
            return
        octets = b""
        try:
            while data := await client.reader.read(1000):
                octets += data
        except ConnectionError:
            pass
    if b"chunked" in head:
        assert b"chunked" == answer.field(b"Transfer-Encoding")
        assert not octets.endswith(b"0\r\n\r\n")
    else:
        assert b"10" == answer.field(b"Content-Length")
        assert len(octets) < 10


# ---- framing of a response


@pytest.mark.parametrize(
    "lines",
    [
        row(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", id="R38-cl-and-te"),
        row(b"Content-Length: 3\r\nContent-Length: 4\r\n", id="R38-two-lengths"),
        row(b"Content-Length: 3\r\nContent-Length: 3\r\n", id="R38-the-same-length-twice"),
        row(b"Content-Length: 3, 4\r\n", id="R38-list"),
        row(b"Content-Length: +3\r\n", id="R38-plus"),
        row(b"Content-Length:\r\n", id="R38-empty"),
        row(b"Transfer-Encoding: xchunked\r\n", id="R38-xchunked"),
        row(b"Transfer-Encoding: gzip, chunked\r\n", id="R38-gzip-and-chunked"),
        row(b"Transfer-Encoding: identity\r\n", id="R38-identity"),
        row(b"Transfer-Encoding: chunked, chunked\r\n", id="R38-twice"),
        row(b"Transfer-Encoding:\r\n", id="R38-empty-coding"),
    ],
)
async def test_faulty_framing_of_a_response(world: World, lines: bytes):
    """502, and the upstream's connection closes."""
    world.says(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + ABC)
    answer = await world.ask(GET)
    assert (502, "upstream-protocol") == (answer.status, suffix(answer))
    await (await world.connection()).gone()


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
@pytest.mark.parametrize("length", [b"x", b"+3", b"3, 3", b""])
async def test_R38_a_length_that_frames_nothing_and_is_none(world: World, method: bytes, length: bytes):
    """It would be passed on, to a client that may believe it: 502."""
    status = b"200 OK" if method == b"HEAD" else b"304 Not Modified"
    world.says(b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length + b"\r\n\r\n")
    assert 502 == (await world.ask(request(method))).status


async def test_R45_nothing_is_answered_behind_a_refusal_that_closes(world: World):
    """Not even the fault that was pipelined behind it."""
    async with connected(world.port) as client:
        await client.send(request(b"GET", b"/a/../b") + b"GET / HTTP/1.1\r\nA : b\r\n\r\n")
        answer = await client.answer()
        assert (400, b"close") == (answer.status, answer.field(b"Connection"))
        assert await client.closed()


async def test_R38_a_transfer_coding_of_a_1_0_response(world: World):
    """502."""
    world.says(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + ABC)
    assert 502 == (await world.ask(GET)).status


@pytest.mark.parametrize(
    ("answer_octets", "target"),
    [
        row(ok(b"fine") + ok(b"stray"), b"/kept/1", id="R39-behind-a-length"),
        row(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n" + ok(b"x"),
            b"/kept/2",
            id="R39-behind-chunks",
        ),
        row(b"HTTP/1.1 204 No Content\r\n\r\nfine", b"/kept/3", id="R39-behind-204"),
        row(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nfine", b"/kept/4", id="R39-behind-304"),
    ],
)
async def test_extra_octets_behind_a_response(world: World, answer_octets: bytes, target: bytes):
    """They are nobody's response: the connection closes, and the next request goes over another one."""
    world.says(answer_octets)
    async with connected(world.port) as client:
        for number in range(2):
            await client.send(request(b"GET", target + b"/%d" % number))
            answer = await client.answer()
            assert answer_octets.split(b" ")[1] == b"%d" % answer.status
            assert answer.body in {b"", b"fine"}
    first, second = world.connections
    await first.gone()
    assert [1, 1] == [len(connection.requests) for connection in (first, second)]


@pytest.mark.parametrize("version", [row(b"1.1", id="R40-to-1.1"), row(b"1.0", id="R40-to-1.0")])
@pytest.mark.parametrize("theirs", [b"1.1", b"1.0"], ids=["from-1.1", "from-1.0"])
async def test_a_body_that_ends_with_the_connection(world: World, version: bytes, theirs: bytes):
    """To HTTP/1.1 it goes in chunks, and the connection stays; to HTTP/1.0 it ends with the connection."""
    world.says(b"HTTP/" + theirs + b" 200 OK\r\n\r\nfine", then="close")
    async with connected(world.port) as client:
        await client.send(request(version=version))
        answer = await client.answer()
        assert (200, b"fine") == (answer.status, answer.body)
        if version == b"1.1":
            assert (b"chunked", None) == (answer.field(b"Transfer-Encoding"), answer.field(b"Connection"))
            await client.send(GET)
            assert 200 == (await client.answer()).status
        else:
            assert (None, b"close") == (answer.field(b"Transfer-Encoding"), answer.field(b"Connection"))
            assert await client.closed()


async def test_R40_chunks_for_a_1_0_client(world: World):
    """They are undone, and the body ends with the connection."""
    world.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n" + ABC[:-2] + b"X: y\r\n\r\n")
    async with connected(world.port) as client:
        await client.send(request(version=b"1.0") + b"")
        answer = await client.answer()
        assert (200, b"abc", b"close") == (answer.status, answer.body, answer.field(b"Connection"))
        assert answer.head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.field(b"Transfer-Encoding") is None


async def test_R13_trailers_of_a_response(world: World):
    """They are dropped, with the fields that announce them; none acts, and none is merged into the head."""
    world.says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nDate: x\r\n\r\n"
        b"3;e=f\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nSet-Cookie: evil\r\n\r\n"
    )
    client = await RawClient.connect(world.port)
    await client.send(request(b"GET", b"/", b"TE: trailers", b"Connection: TE, close"))
    octets = await client.reader.read()
    await client.close()
    expected = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + ABC
    assert expected == octets
    assert b"\r\nTE:" not in world.requests[0]


async def test_R8_a_body_that_the_upstream_does_not_want(world: World):
    """Its length is never wrong: an upload that stops early ends the upstream's connection, not the body."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(ok(b"no", status=b"403 Forbidden"))

    world.script = script
    async with connected(world.port) as client:
        await client.send(request(b"POST", b"/kept", b"Content-Length: 1000000") + b"x" * 1000)
        answer = await client.answer()
        assert (403, b"no", b"close") == (answer.status, answer.body, answer.field(b"Connection"))
    connection = await world.connection()
    await connection.gone()
    assert [] == connection.requests


async def test_R39_a_body_behind_the_answer_to_head(world: World):
    """It is nobody's: the head is relayed, the connection closes, and the next answer is another one's."""
    world.says(ok(b"fine"))
    async with connected(world.port) as client:
        for _ in range(2):
            await client.send(request(b"HEAD", b"/kept/head"))
            answer = await client.answer(head_only=True)
            assert (200, b"4") == (answer.status, answer.field(b"Content-Length"))
    assert [1, 1] == [len(connection.requests) for connection in world.connections[-2:]]
    await world.connections[-2].gone()
