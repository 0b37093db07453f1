"""R1 to R16: what goes on to the other side, what ends here, and what the gateway adds."""

from __future__ import annotations

import pytest

from tests.gateway.http.world import GET, World, row, suffix
from tests.support.fronting import connected, request
from tests.support.raw_client import RawClient
from tests.support.scripted_upstream import ScriptedConnection, answering, ok

pytestmark = pytest.mark.asyncio(loop_scope="module")

OF_THIS_HOP = [
    b"Connection: keep-alive, X-Mine, x-other",
    b"connection: X-Third",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"TE: trailers",
    b"Trailer: X-Sum",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: Basic x",
    b"X-Mine: 1",
    b"X-OTHER: 2",
    b"x-third: 3",
]
DATE = b"Date: Wed, 25 Nov 2026 10:00:00 GMT"


# ---- fields


async def test_R1_connection_specific_fields_of_a_request(world: World):
    """None goes on, nor what any `Connection` line lists; all others do."""
    got = await world.forwarded(request(b"GET", b"/", *OF_THIS_HOP, b"Upgrade: h2c", b"X-Kept: 4"))
    assert [(b"X-Kept", b"4")] == got.theirs


async def test_R1_connection_specific_fields_of_a_response(world: World):
    """The same in the other direction."""
    world.says(ok(b"fine", *OF_THIS_HOP, b"Upgrade: h2c", b"X-Kept: 4", DATE))
    answer = await world.ask(GET)
    assert b"HTTP/1.1 200 OK\r\nX-Kept: 4\r\n" + DATE + b"\r\nContent-Length: 4\r\n\r\n" == answer.head


async def test_R2_what_connection_lists_cannot_remove_what_is_ours(world: World):
    """Framing, Host, the token and all that the gateway sets are added after the client's fields were taken out."""
    listed = b"Connection: content-length, Host, authorization, via, x-request-id, x-forwarded-for, transfer-encoding"
    got = await world.forwarded(request(b"POST", b"/", listed, body=b"hello"))
    names = [b"Host", b"Content-Length", b"Via", b"X-Request-Id", b"X-Forwarded-For", b"Authorization"]
    assert [1] * len(names) == [len(got.values(name)) for name in names]
    assert b"hello" == got.body


async def test_R2_the_same_for_a_response(world: World):
    """A response cannot lose its framing so."""
    world.says(ok(b"fine", b"Connection: content-length, date, x", b"X: y"))
    answer = await world.ask(GET)
    assert (b"4", None, b"fine") == (answer.field(b"Content-Length"), answer.field(b"X"), answer.body)


async def test_R3_fields_of_a_request_pass(world: World):
    """Unknown ones too, in order, as they were spelled, with the octets of their values; lines are not merged."""
    fields = [
        (b"aCCept", b"*/*;q=0.1"),
        (b"ETag", b'W/"x"'),
        (b"X-Unheard-Of", b"a,b,,c"),
        (b"Cookie", b"a=1; b=2"),
        (b"X-Empty", b""),
        (b"Cookie", b"c=3"),
        (b"!#$%&'*+-.^`|~", b"odd name"),
        (b"X-Tab", b"a\tb  c"),
    ]
    got = await world.forwarded(request(b"GET", b"/", *map(b": ".join, fields)))
    assert fields == got.theirs


async def test_R3_fields_of_a_response_pass(world: World):
    """The same in the other direction; Set-Cookie lines stay apart."""
    fields = [b"ETag: x", b"set-cookie: a=1, b", b"X-Unheard-Of: a,b", b"Set-Cookie: c=2", b"X-Empty: ", DATE]
    world.says(ok(b"fine", *fields))
    answer = await world.ask(GET)
    assert b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Content-Length: 4", b"", b""]) == answer.head


async def test_R3_white_space_around_a_value(world: World):
    """It is no part of the value (RFC 9110 §5.5), and does not go on."""
    got = await world.forwarded(request(b"GET", b"/", b"A:b", b"C: \t d\t ", b"E:   "))
    assert [(b"A", b"b"), (b"C", b"d"), (b"E", b"")] == got.theirs


@pytest.mark.parametrize("version", [row(b"1.1", id="R4-1.1"), row(b"1.0", id="R4-1.0")])
async def test_via(world: World, version: bytes):
    """One entry is added, with the version that the client spoke; those before it stay. R6: the gateway speaks 1.1."""
    got = await world.forwarded(request(b"GET", b"/", b"Via: 1.0 a, 1.1 b (c)", version=version))
    assert [b"1.0 a, 1.1 b (c)", version + b" bearer-proxy"] == got.values(b"Via")
    assert b"HTTP/1.1" == got.version


@pytest.mark.parametrize(
    "lines",
    [
        row([b"Via: 1.1 bearer-proxy"] * 3, id="R4-three-lines"),
        row([b"Via: 1.1 bearer-proxy, 1.0 x, HTTP/1.1 Bearer-Proxy (y), 1.1 bearer-proxy"], id="R4-one-line"),
    ],
)
async def test_a_loop(world: World, lines: list[bytes]):
    """At the third round 508."""
    answer = await world.refused(request(b"GET", b"/", *lines))
    assert (508, "loop-detected") == (answer.status, suffix(answer))
    assert 200 == (await world.ask(request(b"GET", b"/", *[b"Via: 1.1 bearer-proxy"] * 2))).status


@pytest.mark.parametrize("value", [row(b"0", id="R5-0"), row(b"000", id="R5-000")])
async def test_options_that_goes_no_further(world: World, value: bytes):
    """It is answered here, on any path."""
    assert 204 == (await world.ask(request(b"OPTIONS", b"/a", b"Max-Forwards: " + value))).status
    assert [] == world.connections


@pytest.mark.parametrize(
    ("method", "value", "onward"),
    [
        row(b"OPTIONS", b"1", b"0", id="R5-1"),
        row(b"OPTIONS", b"10", b"9", id="R5-10"),
        row(b"OPTIONS", b"010", b"9", id="R5-010"),
        row(b"OPTIONS", b"none", b"none", id="R5-no-number"),
        row(b"GET", b"0", b"0", id="R5-get"),
    ],
)
async def test_max_forwards(world: World, method: bytes, value: bytes, onward: bytes):
    """It counts down for OPTIONS, and means nothing for others."""
    got = await world.forwarded(request(method, b"/a", b"Max-Forwards: " + value))
    assert [(b"Max-Forwards", onward)] == got.theirs


async def test_R6_R7_nothing_else_is_added_to_a_request(world: World):
    """From the least request, the whole head that the upstream gets."""
    got = await world.forwarded(b"GET /a HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: id-1\r\n\r\n")
    (token,) = got.values(b"Authorization")
    expected = [
        b"GET /a HTTP/1.1",
        b"Host: 127.0.0.1:%d" % world.upstream.port,
        b"Via: 1.1 bearer-proxy",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: localhost",
        b"X-Request-Id: id-1",
        b"Authorization: " + token,
        b"",
        b"",
    ]
    assert b"\r\n".join(expected) == got.octets


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"QUERY"])
async def test_R7_no_body_is_invented(world: World, method: bytes):
    """A request without a body gets neither a length nor a type; one with an empty body keeps its 0."""
    assert [] == (await world.forwarded(request(method))).theirs
    assert [(b"Content-Length", b"0")] == (await world.forwarded(request(method, b"/", b"Content-Length: 0"))).theirs


async def test_R7_nothing_but_a_date_is_added_to_a_response(world: World):
    """And that only where there is none: no Server, no Content-Type, no Via."""
    world.says(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
    lines = (await world.ask(GET)).head.split(b"\r\n")
    assert b"HTTP/1.1 200 OK" == lines[0]
    assert [b"Content-Length: 4", b"Date"] == sorted([lines[1], lines[2].split(b":")[0]])
    assert [b"", b""] == lines[3:]
    world.says(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n" + DATE + b"\r\n\r\nfine")
    assert 1 == (await world.ask(GET)).head.lower().count(b"\r\ndate:")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        row(b"/v1/orders/7?a=%2f#f", b"/based/orders/7?a=%2f#f", id="location-path"),
        row(b"http://UPSTREAM/v1/orders", b"/based/orders", id="location-own-origin"),
        row(b"http://UPSTREAM/v2/orders", b"http://UPSTREAM/v2/orders", id="location-elsewhere-on-it"),
        row(b"http://other.example/v1/orders", b"http://other.example/v1/orders", id="location-elsewhere"),
        row(b"orders/8", b"orders/8", id="location-relative"),
    ],
)
async def test_a_location(world: World, theirs: bytes, ours: bytes):
    """One on the upstream itself, below its base path, is mapped back; any other stays as it is."""
    upstream = b"127.0.0.1:%d" % world.upstream.port
    theirs, ours = (value.replace(b"UPSTREAM", upstream) for value in (theirs, ours))
    world.says(ok(b"", b"Location: " + theirs, b"content-location: " + theirs, status=b"201 Created"))
    answer = await world.ask(request(b"POST", b"/based/orders"))
    assert (201, ours, ours) == (answer.status, answer.field(b"Location"), answer.field(b"Content-Location"))
    assert b"\r\ncontent-location: " in answer.head


@pytest.mark.parametrize(
    "name", [b"Proxy-Anything", b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Port", b"X-Real-IP"]
)
async def test_what_clients_claim(world: World, name: bytes):
    """It does not go on; what the gateway says of the client does."""
    got = await world.forwarded(request(b"GET", b"/", name + b": evil"))
    assert [] == got.theirs
    assert ([b"127.0.0.1"], [b"http"], [b"localhost"]) == tuple(
        got.values(b"X-Forwarded-" + what) for what in (b"For", b"Proto", b"Host")
    )


# ---- once


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH"])
async def test_R9_a_request_that_may_change_something_is_not_sent_twice(world: World, method: bytes):
    """A kept connection that closes under it might have carried it out: 502."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.request()
        connection.send(ok(b"fine"))
        await connection.request()
        connection.close()

    world.script = script
    async with connected(world.port) as client:
        await client.send(request(b"GET", b"/kept"))
        assert 200 == (await client.answer()).status
        await client.send(request(method, b"/kept", body=b"x"))
        assert 502 == (await client.answer()).status
    assert 1 == sum(octets.startswith(method) for octets in world.requests)


# ---- interim responses


@pytest.mark.parametrize(
    ("status", "version", "seen"),
    [
        row(b"103 Early Hints", b"1.1", True, id="R10-103"),
        row(b"102 Processing", b"1.1", True, id="R10-102"),
        row(b"199 Whatever", b"1.1", True, id="R10-199"),
        row(b"103 Early Hints", b"1.0", False, id="R10-not-to-1.0"),
        row(b"100 Continue", b"1.1", False, id="R10-100-unasked"),
    ],
)
async def test_an_interim_response(world: World, status: bytes, version: bytes, seen: bool):
    """It goes on to those who know of them, without connection-specific fields; a 100 has been given already."""
    interim = b"HTTP/1.1 " + status + b"\r\nLink: </a>\r\nConnection: x\r\nX: y\r\n\r\n"
    world.says(interim + ok(b"fine", DATE))
    async with connected(world.port) as client:
        await client.send(request(version=version))
        head = await client.reader.readuntil(b"\r\n\r\n")
        if seen:
            assert b"HTTP/1.1 " + status + b"\r\nLink: </a>\r\n\r\n" == head
            head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_R11_expect_is_answered_here(world: World):
    """100 once the upstream's connection is held; neither the field nor the upstream's own 100 goes on."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.head()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.request()
        connection.send(ok(b"fine"))

    world.script = script
    async with connected(world.port) as client:
        await client.send(request(b"POST", b"/", b"Expect: 100-Continue", b"Content-Length: 5"))
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await client.reader.readuntil(b"\r\n\r\n")
        assert 1 == len(world.connections)
        await client.send(b"hello")
        answer = await client.answer()
        assert (200, b"fine") == (answer.status, answer.body)
    assert b"expect" not in world.requests[0].lower()


@pytest.mark.parametrize(
    "data",
    [
        row(request(b"POST", b"/", b"Expect: 100-continue", version=b"1.0", body=b"hello"), id="R11-not-to-1.0"),
        row(request(b"GET", b"/", b"Expect: 100-continue"), id="R11-not-without-a-body"),
    ],
)
async def test_no_100_where_none_is_due(world: World, data: bytes):
    """The first head that comes is the answer's."""
    async with connected(world.port) as client:
        await client.send(data)
        assert 200 == (await client.answer()).status


async def test_R11_no_100_for_a_request_that_is_refused(world: World):
    """Its body is not asked for."""
    answer = await world.refused(request(b"PUT", b"/get", b"Expect: 100-continue", b"Content-Length: 5"))
    assert (405, b"close") == (answer.status, answer.field(b"Connection"))


@pytest.mark.parametrize("value", [b"magic", b"100-continue, magic", b"100-continue;q=1"])
async def test_R12_an_unknown_expectation(world: World, value: bytes):
    """417."""
    answer = await world.refused(request(b"POST", b"/", b"Expect: " + value, b"Content-Length: 0"))
    assert (417, "expectation-failed") == (answer.status, suffix(answer))


# ---- answers without a body


@pytest.mark.parametrize(
    ("method", "answer_octets", "expected"),
    [
        row(b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + DATE + b"\r\n\r\n", b"1000", id="R14-head"),
        row(b"HEAD", b"HTTP/1.1 200 OK\r\n" + DATE + b"\r\n\r\n", None, id="R14-head-without-length"),
        row(b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + DATE + b"\r\n\r\n", None, id="R14-head-te"),
        row(b"GET", b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\n\r\n", None, id="R14-204"),
        row(
            b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n" + DATE + b"\r\n\r\n", None, id="R14-204-length"
        ),
        row(b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n" + DATE + b"\r\n\r\n", b"9", id="R14-304"),
    ],
)
async def test_an_answer_without_a_body(world: World, method: bytes, answer_octets: bytes, expected: bytes | None):
    """A length that tells of another body is kept, transfer codings are not, and the next answers are in step."""
    world.script = answering(answer_octets, ok(b"fine"))
    async with connected(world.port) as client:
        await client.send(request(method, b"/kept/%d" % world.gateway.port))
        answer = await client.answer(head_only=True)
        assert int(answer_octets.split(b" ")[1]) == answer.status
        assert (expected, None) == (answer.field(b"Content-Length"), answer.field(b"Transfer-Encoding"))
        await client.send(request(b"GET", b"/kept"))
        answer = await client.answer()
        assert (200, b"fine") == (answer.status, answer.body)
    assert 1 == len({id(connection) for connection in world.connections if connection.requests})
    world.connections[-1].close()
    await world.connections[-1].gone()


# ---- Upgrade and methods


@pytest.mark.parametrize(
    "data",
    [
        row(request(b"GET", b"/", b"Upgrade: websocket"), id="R15-not-listed"),
        row(request(b"GET", b"/", b"Upgrade: websocket", b"Connection: upgrade", version=b"1.0"), id="R15-in-1.0"),
    ],
)
async def test_an_upgrade_that_is_none(world: World, data: bytes):
    """Without `Connection: upgrade`, or from HTTP/1.0, it is a plain request, and goes on without the field."""
    assert [] == (await world.forwarded(data)).theirs


async def test_R15_101_that_nobody_asked_for(world: World):
    """502."""
    world.says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nwhat follows")
    answer = await world.ask(GET)
    assert (502, "upstream-protocol") == (answer.status, suffix(answer))
    await (await world.connection()).gone()


@pytest.mark.parametrize(
    "data",
    [
        row(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", id="R16-connect"),
        row(request(b"CONNECT"), id="R16-connect-with-a-path"),
        row(request(b"TRACE"), id="R16-trace"),
        row(request(b"TRACE", b"/", b"Max-Forwards: 0"), id="R5-trace"),
        row(request(b"TRACK"), id="R16-track"),
        row(request(b"FOO"), id="R16-unknown"),
        row(request(b"get"), id="R47-lower-case"),
        row(request(b"Post"), id="R47-mixed-case"),
        row(request(b"M-SEARCH"), id="R47-known-to-the-parser-alone"),
        row(request(b"A" * 100), id="R47-long"),
    ],
)
async def test_a_method_that_is_not_served(world: World, data: bytes):
    """501, and the connection closes."""
    answer = await world.refused(data)
    assert (501, "not-implemented", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PATCH", b"QUERY", b"PROPFIND", b"MKCOL", b"REPORT", b"UNBIND"])
async def test_R47_methods_go_on_as_they_came(world: World, method: bytes):
    """Of the list that is served, the whole of which has a test in test_connections."""
    assert method == (await world.forwarded(request(method))).method


async def test_R1_an_interim_response_is_no_place_for_trailers(world: World):
    """Connection-specific fields go from interim responses too, and a length that would frame nothing."""
    world.says(
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nA: b\r\n\r\n" + ok(b"fine")
    )
    client = await RawClient.connect(world.port)
    await client.send(GET)
    assert b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" == await client.reader.readuntil(b"\r\n\r\n")
    assert b"fine" == (await client.answer()).body
    await client.close()
