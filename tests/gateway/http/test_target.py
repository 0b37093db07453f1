"""R17 to R23: the request target, in both what is refused and what goes on byte for byte."""

from __future__ import annotations

import pytest

from tests.gateway.http.world import World, row, suffix
from tests.support.fronting import request

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "target",
    [
        row(b"/a%2fb", id="R17-2f"),
        row(b"/a%2Fb", id="R17-2F"),
        row(b"/%7e%41%c3%A9", id="R17-encoded"),
        row(b"/a;p=1/b;c", id="R17-parameters"),
        row(b"/a//b///c//", id="R17-empty-segments"),
        row(b"/a[1]|'\"<>^`{}", id="R17-beyond-the-grammar"),
        row(b"/?", id="R17-empty-query"),
        row(b"/a?b?c//../%zz[]|\\;", id="R17-any-query"),
        row(b"/a/?x=%2e%2e&y=http://h/", id="R17-query-with-dots"),
        row(b"/http://h/a", id="R17-a-url-as-path"),
        row(b"/a:b@c", id="R17-colon"),
        row(b"/100%25;v=1/x", id="R17-a-route-written-encoded"),
        row(b"/raw/../%2e/\\%00%zz//", id="R17-raw-route"),
    ],
)
async def test_origin_form(world: World, target: bytes):
    """Path and query go on as the bytes that came."""
    assert target == (await world.forwarded(request(target=target))).target


@pytest.mark.parametrize(
    ("target", "onward"),
    [
        row(b"/based", b"/v1", id="R17-stripped-whole"),
        row(b"/based/", b"/v1/", id="R17-stripped-slash"),
        row(b"/based//7%2f?x", b"/v1//7%2f?x", id="R17-stripped-empty-segment"),
    ],
)
async def test_a_prefix_is_stripped(world: World, target: bytes, onward: bytes):
    """What stands behind the prefix goes on as the bytes that came."""
    assert onward == (await world.forwarded(request(target=target))).target


@pytest.mark.parametrize(
    ("target", "onward", "host"),
    [
        row(b"http://127.0.0.1:99/a%2f?b", b"/a%2f?b", b"127.0.0.1:99", id="R18-path-and-query"),
        row(b"http://127.0.0.1", b"/", b"127.0.0.1", id="R18-no-path"),
        row(b"http://127.0.0.1?q", b"/?q", b"127.0.0.1", id="R18-query-alone"),
        row(b"HTTPS://[::1]:8443/", b"/", b"[::1]:8443", id="R18-https"),
    ],
)
async def test_absolute_form(world: World, target: bytes, onward: bytes, host: bytes):
    """The target's authority stands for Host, and chooses no upstream: it goes to the route's."""
    got = await world.forwarded(request(target=target))
    assert (onward, [host]) == (got.target, got.values(b"X-Forwarded-Host"))
    assert [b"127.0.0.1:%d" % world.upstream.port] == got.values(b"Host")


@pytest.mark.parametrize(
    ("target", "status", "problem"),
    [
        row(b"http://evil.example/", 421, "host-not-allowed", id="R18-foreign-host"),
        row(b"http://u@localhost/", 400, "bad-request", id="R18-user-information"),
        row(b"http://localhost:99999/", 400, "bad-request", id="R18-port"),
        row(b"http:///a", 400, "bad-request", id="R18-no-authority"),
        row(b"ftp://localhost/", 400, "bad-request", id="R18-scheme"),
        row(b"localhost:80", 400, "bad-request", id="R18-authority-form"),
        row(b"a/b", 400, "bad-request", id="R18-no-form"),
        row(b"*", 400, "bad-request", id="R19-get-asterisk"),
        row(b"/a b", 400, "bad-request", id="R20-space"),
        row(b"/a\tb", 400, "bad-request", id="R20-tab"),
        row(b"/a\x01b", 400, "bad-request", id="R20-control"),
        row(b"/a\x7fb", 400, "bad-request", id="R20-del"),
        row(b"/caf\xc3\xa9", 400, "bad-request", id="R20-non-ascii"),
        row(b"/?\xff", 400, "bad-request", id="R20-non-ascii-in-query"),
        row(b"/a#f", 400, "bad-request", id="R21-fragment"),
        row(b"/a?b#", 400, "bad-request", id="R21-empty-fragment"),
        row(b"http://localhost/#f", 400, "bad-request", id="R21-fragment-in-absolute-form"),
        row(b"/a/../b", 400, "ambiguous-path", id="R22-dots"),
        row(b"/.", 400, "ambiguous-path", id="R22-dot"),
        row(b"/a/%2E%2e/b", 400, "ambiguous-path", id="R22-encoded-dots"),
        row(b"/..;x/b", 400, "ambiguous-path", id="R22-dots-and-parameters"),
        row(b"/a%2f..%2fb", 400, "ambiguous-path", id="R22-encoded-slashes"),
        row(b"/a\\b", 400, "ambiguous-path", id="R22-backslash"),
        row(b"/a%5cb", 400, "ambiguous-path", id="R22-encoded-backslash"),
        row(b"/a%00", 400, "ambiguous-path", id="R22-nul"),
        row(b"/a%0d%0ab", 400, "ambiguous-path", id="R22-crlf"),
        row(b"/a%7F", 400, "ambiguous-path", id="R22-del"),
        row(b"/a%", 400, "ambiguous-path", id="R22-lone-percent"),
        row(b"/a%zz", 400, "ambiguous-path", id="R22-malformed-percent"),
        row(b"/a%252e%252e", 400, "ambiguous-path", id="R22-dots-encoded-twice"),
        row(b"/a%252%65", 400, "ambiguous-path", id="R22-mixed-encoding"),
        row(b"/a%25%35%43", 400, "ambiguous-path", id="R22-mixed-encoding-of-all"),
        row(b"/a%250d", 400, "ambiguous-path", id="R22-control-encoded-twice"),
        row(b"//a", 400, "ambiguous-path", id="R22-leading-slashes"),
        row(b"/based//%2e", 400, "ambiguous-path", id="R22-below-a-prefix"),
        row(b"/%61dmin", 400, "ambiguous-path", id="R22-another-route-decoded"),
        row(b"/%2561dmin", 400, "ambiguous-path", id="R22-another-route-decoded-twice"),
        row(b"/admin;x", 400, "ambiguous-path", id="R22-another-route-parameters"),
        row(b"/admin%3Bx/y", 400, "ambiguous-path", id="R22-another-route-encoded-parameters"),
        row(b"/admin%2fx", 400, "ambiguous-path", id="R22-another-route-encoded-slash"),
        row(b"/%2fadmin", 400, "ambiguous-path", id="R22-another-route-leading"),
        row(b"/;/admin", 400, "ambiguous-path", id="R22-another-route-empty-segment"),
        row(b"/admin%3fx", 400, "ambiguous-path", id="R22-another-route-query"),
        row(b"/g%65t/x", 400, "ambiguous-path", id="R22-another-route-of-other-methods"),
    ],
)
async def test_a_target_that_is_refused(world: World, target: bytes, status: int, problem: str):
    """The client is told so, the connection closes where the message is at fault, and the upstream sees nothing."""
    answer = await world.refused(request(b"PUT" if b"g%65t" in target else b"GET", target))
    assert (status, problem) == (answer.status, suffix(answer))
    assert (b"close" if status == 400 else None) == answer.field(b"Connection")


@pytest.mark.parametrize(
    "target",
    [
        row(b"/admin/a%2fb;c//d", id="R22-the-route-itself"),
        row(b"/x/%61dmin;y//z", id="R22-no-route-is-named-so"),
        row(b"/a%2Fb//c", id="R22-slash-and-empty-segment"),
    ],
)
async def test_a_path_that_finds_the_same_route_for_all(world: World, target: bytes):
    """It goes on as it came: what is unusual is not refused for it."""
    assert target == (await world.forwarded(request(target=target))).target


@pytest.mark.parametrize(
    "target", [row(b"*", id="R19-asterisk"), row(b"http://localhost:80", id="R19-absolute-without-path")]
)
async def test_options_of_the_server_itself(world: World, target: bytes):
    """It is answered here."""
    assert 204 == (await world.ask(request(b"OPTIONS", target))).status
    assert [] == world.connections


@pytest.mark.parametrize(
    ("line", "status"),
    [
        row(b"GET  / HTTP/1.1", 400, id="R20-two-spaces"),
        row(b"GET / HTTP/1.1 ", 400, id="R20-space-at-the-end"),
        row(b" GET / HTTP/1.1", 400, id="R20-space-at-the-start"),
        row(b"GET\t/ HTTP/1.1", 400, id="R20-tab-as-separator"),
        row(b"GET /\x0bHTTP/1.1", 400, id="R20-vertical-tab-as-separator"),
        row(b"GET / HTTP/1.1\r", 400, id="R20-cr"),
    ],
)
async def test_a_request_line_that_is_refused(world: World, line: bytes, status: int):
    """One space separates, and nothing else."""
    assert status == (await world.refused(line + b"\r\nHost: localhost\r\n\r\n")).status


@pytest.mark.parametrize("octets", [row(8000, id="R23-8000"), row(30_000, id="R23-30000")])
async def test_a_long_request_line(world: World, octets: int):
    """8000 octets are taken by everybody (RFC 9112 §3), and all of them go on."""
    target = b"/" + b"a" * (octets // 2) + b"?" + b"b" * (octets // 2)
    assert target == (await world.forwarded(request(target=target))).target


@pytest.mark.parametrize(
    "target", [row(b"/" + b"a" * 40_000, id="R23-path"), row(b"/?" + b"a" * 40_000, id="R23-query")]
)
async def test_a_request_line_beyond_the_limit(world: World, target: bytes):
    """414, and the connection closes."""
    answer = await world.refused(request(target=target))
    assert (414, "target-too-long", b"close") == (answer.status, suffix(answer), answer.field(b"Connection"))
