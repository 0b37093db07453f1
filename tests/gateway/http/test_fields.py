"""R24 to R30: the header section, of requests and of responses."""

from __future__ import annotations

import pytest

from tests.gateway.http.world import World, row, suffix
from tests.support.fronting import request
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = b"GET / HTTP/1.1\r\n"


# ---- Host


@pytest.mark.parametrize(
    "lines",
    [
        row(b"", id="R24-missing"),
        row(b"Host: localhost\r\nHost: localhost", id="R24-two"),
        row(b"Host: localhost\r\nhOST: other", id="R24-two-spellings"),
        row(b"Host:", id="R24-empty"),
        row(b"Host: localhost, localhost", id="R24-list"),
        row(b"Host: local host", id="R24-space"),
        row(b"Host: localhost/b?c#d", id="R24-path"),
        row(b"Host: u@localhost", id="R24-user-information"),
        row(b"Host: localhost:a", id="R24-port-of-letters"),
        row(b"Host: localhost:", id="R24-empty-port"),
        row(b"Host: localhost:99999", id="R24-port-out-of-range"),
        row(b"Host: localhost:80:80", id="R24-two-ports"),
        row(b"Host: [::1", id="R24-open-bracket"),
        row(b"Host: ::1", id="R24-ipv6-without-brackets"),
        row(b"Host: [::1]x", id="R24-text-behind-brackets"),
        row(b"Host: [1.2.3.4]", id="R24-ipv4-in-brackets"),
        row(b"Host: [fe80::1%25lo]", id="R24-zone"),
        row(b"Host: caf\xc3\xa9", id="R24-non-ascii"),
        row(b"Host: a\\b", id="R24-backslash"),
        row(b"Host: %zz", id="R24-malformed-percent"),
    ],
)
async def test_a_host_that_is_refused(world: World, lines: bytes):
    """400, and the connection closes."""
    answer = await world.refused(LINE + lines + b"\r\n" * bool(lines) + b"\r\n")
    assert (400, "bad-request", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


async def test_R24_a_host_of_an_absolute_form_is_looked_at_too(world: World):
    """Though the target's authority takes its place, a malformed Host is a malformed request."""
    answer = await world.refused(b"GET http://localhost/ HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert (400, "bad-request") == (answer.status, suffix(answer))


@pytest.mark.parametrize(
    "host",
    [
        row(b"localhost", id="R24-name"),
        row(b"LocalHost:8080", id="R24-case-and-port"),
        row(b"127.0.0.1:1", id="R24-ipv4"),
        row(b"[::1]", id="R24-ipv6"),
        row(b"[::1]:65535", id="R24-ipv6-and-port"),
    ],
)
async def test_a_host_that_is_taken(world: World, host: bytes):
    """The upstream's own takes its place; what the client said is told as X-Forwarded-Host, byte for byte."""
    got = await world.forwarded(LINE + b"Host: " + host + b"\r\n\r\n")
    assert [b"127.0.0.1:%d" % world.upstream.port] == got.values(b"Host")
    assert [host] == got.values(b"X-Forwarded-Host")


# ---- the grammar of lines


@pytest.mark.parametrize(
    "octets",
    [
        row(b"A : b\r\n", id="R25-space-before-colon"),
        row(b"A\t: b\r\n", id="R25-tab-before-colon"),
        row(b"A: b\r\n c\r\n", id="R25-fold"),
        row(b"A: b\r\n\tc\r\n", id="R25-fold-by-tab"),
        row(b" A: b\r\n", id="R25-space-at-the-start"),
        row(b"A: b\rc\r\n", id="R25-bare-cr"),
        row(b"A: b\r\r\n", id="R25-two-cr"),
        row(b"A: b\nC: d\r\n", id="R25-bare-lf"),
        row(b"A: b\n\r\n", id="R25-bare-lf-before-the-end"),
        row(b"A: \x00\r\n", id="R25-nul"),
        row(b"A: b\x01\r\n", id="R25-control"),
        row(b"A: b\x7f\r\n", id="R25-del"),
        row(b"A: b\x0b\r\n", id="R25-vertical-tab"),
        row(b"A\r\n", id="R25-no-colon"),
        row(b": b\r\n", id="R25-empty-name"),
        row(b"A[: b\r\n", id="R25-name-that-is-no-token"),
        row(b"A\xe9: b\r\n", id="R25-name-with-obs-text"),
        row(b"A B: c\r\n", id="R25-space-in-a-name"),
        row(b"A\x00: b\r\n", id="R25-nul-in-a-name"),
    ],
)
async def test_a_line_that_is_refused(world: World, octets: bytes):
    """In a request 400, and the connection closes; in a response 502, and the upstream's connection closes."""
    answer = await world.refused(LINE + b"Host: localhost\r\n" + octets + b"\r\n")
    assert (400, "bad-request", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))
    assert b"A" not in answer.body.replace(b"Bad", b"")


RESPONSE_LINES = [
    row(b"A: b\n", id="R26-bare-lf"),
    row(b"A: b\r\n c\r\n", id="R26-fold"),
    row(b"A : b\r\n", id="R26-space-before-colon"),
    row(b"A: b\x01\r\n", id="R26-control"),
    row(b"A: b\x00\r\n", id="R26-nul"),
    row(b"A: b\x7f\r\n", id="R26-del"),
    row(b"A: b\rc\r\n", id="R26-bare-cr"),
    row(b"A\x01: b\r\n", id="R26-control-in-a-name"),
    row(b"A\r\n", id="R26-no-colon"),
    row(b"Content-Type: a/b\r\nContent-Type: c/d\r\n", id="R26-two-content-types"),
    row(b"Location: /a\r\nlocation: /b\r\n", id="R26-two-locations"),
    row(b'ETag: "1"\r\nETag: "1"\r\n', id="R26-two-etags"),
]


@pytest.mark.parametrize("octets", RESPONSE_LINES)
async def test_a_line_of_a_response_that_is_refused(world: World, octets: bytes):
    """502 in the gateway's own words; nothing of that response reaches the client, and its connection closes."""
    world.says(b"HTTP/1.1 200 OK\r\n" + octets + b"Content-Length: 4\r\nX-Seen: yes\r\n\r\nfine")
    answer = await world.ask(request())
    assert (502, "upstream-protocol") == (answer.status, suffix(answer))
    assert b"X-Seen" not in answer.head
    await (await world.connection()).gone()


@pytest.mark.parametrize(
    "line",
    [
        row(b"HTTP/1.1 200 O\x01K", id="R26-control-in-the-reason"),
        row(b"HTTP/1.1 099 OK", id="R26-status-099"),
        row(b"HTTP/1.1 600 OK", id="R26-status-600"),
        row(b"HTTP/1.1 2000 OK", id="R26-four-digits"),
        row(b"HTTP/1.1  200 OK", id="R26-two-spaces"),
        row(b"HTTP/2.0 200 OK", id="R26-version-2"),
        row(b"http/1.1 200 OK", id="R26-lower-case"),
        row(b"HTTP/1.1", id="R26-no-status"),
    ],
)
async def test_a_status_line_that_is_refused(world: World, line: bytes):
    """502."""
    world.says(line + b"\r\nContent-Length: 4\r\n\r\nfine")
    answer = await world.ask(request())
    assert (502, "upstream-protocol") == (answer.status, suffix(answer))


# ---- obs-text


async def test_R27_obs_text_of_a_request(world: World):
    """Octets above 0x7F go on as they came, all of them."""
    value = bytes(range(0x80, 0x100))
    got = await world.forwarded(request(b"GET", b"/", b"X-Obs: " + value, b"Cookie: caf\xe9=\xc3\xa9"))
    assert [(b"X-Obs", value), (b"Cookie", b"caf\xe9=\xc3\xa9")] == got.theirs


async def test_R27_obs_text_of_a_response(world: World):
    """The same in the other direction, the reason phrase included."""
    value = bytes(range(0x80, 0x100))
    world.says(b"HTTP/1.1 200 caf\xe9\r\nX-Obs: " + value + b"\r\nDate: x\r\nContent-Length: 4\r\n\r\nfine")
    answer = await world.ask(request())
    expected = b"HTTP/1.1 200 caf\xe9\r\nX-Obs: " + value + b"\r\nDate: x\r\nContent-Length: 4\r\n\r\n"
    assert expected == answer.head


# ---- size


@pytest.mark.parametrize(
    "fields",
    [
        row([b"X-%d: 1" % number for number in range(100)], id="R28-101-fields"),
        row([b"Cookie: " + b"a" * 33_000], id="R28-one-large-field"),
        row([b"X-%d: %s" % (number, b"a" * 800) for number in range(45)], id="R28-large-in-all"),
        row([b"A" * 33_000 + b": b"], id="R28-large-name"),
    ],
)
async def test_a_header_section_beyond_the_limits(world: World, fields: list[bytes]):
    """431, and the connection closes."""
    answer = await world.refused(request(b"GET", b"/", *fields))
    assert (431, "head-too-large", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))


@pytest.mark.parametrize(
    "fields",
    [
        row([b"Authorization: Negotiate " + b"a" * 16_000], id="R28-kerberos"),
        row([b"Cookie: " + b"a" * 30_000], id="R28-cookie"),
        row([b"X-%d: 1" % number for number in range(99)], id="R28-100-fields"),
    ],
)
async def test_a_header_section_within_the_limits(world: World, fields: list[bytes]):
    """It passes, in both directions."""
    got = await world.forwarded(request(b"GET", b"/", *fields))
    if not fields[0].startswith(b"Authorization"):
        assert fields == [b": ".join(field) for field in got.theirs]
    world.says(b"\r\n".join([b"HTTP/1.1 200 OK", *fields[:99], b"Content-Length: 0", b"", b""]))
    answer = await world.ask(request())
    assert 200 == answer.status
    assert all(field + b"\r\n" in answer.head for field in fields)


@pytest.mark.parametrize(
    "octets",
    [
        row(b"X: " + b"a" * 40_000 + b"\r\n", id="R28-response-large-field"),
        row(b"X: a\r\n" * 101, id="R28-response-fields"),
    ],
)
async def test_a_header_section_of_a_response_beyond_the_limits(world: World, octets: bytes):
    """502."""
    world.says(b"HTTP/1.1 200 OK\r\n" + octets + b"Content-Length: 0\r\n\r\n")
    answer = await world.ask(request())
    assert (502, "upstream-protocol") == (answer.status, suffix(answer))


# ---- names with an underscore, and fields that are there twice


@pytest.mark.parametrize(
    "name",
    [
        row(b"Content_Length", id="R29-content-length"),
        row(b"Transfer_Encoding", id="R29-transfer-encoding"),
        row(b"AUTHORIZATION_", id="R29-no-twin"),
        row(b"X_Forwarded_For", id="R29-claim"),
        row(b"x-forwarded_host", id="R29-half"),
        row(b"X_Request_Id", id="R29-request-id"),
        row(b"Proxy_Authorization", id="R29-proxy-authorization"),
    ],
)
async def test_a_twin(world: World, name: bytes):
    """A name that reads as one of ours where `_` is read as `-` is refused; any other goes on."""
    if name == b"AUTHORIZATION_":
        assert [(name, b"1")] == (await world.forwarded(request(b"GET", b"/", name + b": 1"))).theirs
        return
    answer = await world.refused(request(b"GET", b"/", name + b": 1"))
    assert (400, "bad-request") == (answer.status, suffix(answer))


@pytest.mark.parametrize(
    "fields",
    [
        row([b"Authorization: Basic x"], id="R30-one"),
        row([b"Authorization: Basic x", b"authorization: Bearer y"], id="R30-two"),
        row([b"Authorization: x", b"Connection: authorization"], id="R30-listed"),
        row([b"authorization:", b"Authorization: Bearer " + b"x" * 1000], id="R30-empty-and-long"),
    ],
)
async def test_authorization(world: World, fields: list[bytes]):
    """The upstream gets exactly one, ours."""
    (value,) = (await world.forwarded(request(b"GET", b"/", *fields))).values(b"Authorization")
    assert value.startswith(b"Bearer at-")


@pytest.mark.parametrize(
    "name",
    [
        row(b"Content-Type", id="R30-content-type"),
        row(b"content-length", id="R30-content-length"),
        row(b"ETag", id="R30-etag"),
        row(b"Content-Range", id="R30-content-range"),
        row(b"Max-Forwards", id="R30-max-forwards"),
        row(b"User-Agent", id="R30-user-agent"),
        row(b"Server", id="R30-server"),
    ],
)
async def test_a_field_that_is_there_twice(world: World, name: bytes):
    """Of one that is good for once, nobody could tell which counts: 400."""
    answer = await world.refused(request(b"GET", b"/", name + b": 1", b"X: y", name.lower() + b": 1"))
    assert (400, "bad-request") == (answer.status, suffix(answer))


async def test_R30_others_may_repeat(world: World):
    """They go on as they came, in order."""
    fields = [(b"Accept", b"a/b"), (b"Cookie", b"1"), (b"accept", b"c/d"), (b"X", b""), (b"Cookie", b"2")]
    got = await world.forwarded(request(b"GET", b"/", *map(b": ".join, fields)))
    assert fields == got.theirs


async def test_R46_R25_an_empty_line_and_then_a_fault(world: World):
    """Empty lines before a request are passed over, and excuse nothing behind them."""
    client = await RawClient.connect(world.port)
    await client.send(b"\r\n\r\n" + LINE + b"Host : localhost\r\n\r\n")
    assert 400 == (await client.answer()).status
    assert await client.closed()
    await client.close()
