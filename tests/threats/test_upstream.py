"""T7 to T10, T16, T21, T22, T27 to T29: what goes to an upstream, what comes back from it, and where else it may not go."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.config.written import MINIMAL, faults, with_credential, with_route
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import running_gateway
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import Reply, ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, early, ok, silent
from tests.upstream.certificates import Authority, server_context

TOKEN = b"tok+en/of-the.gateway~1="


def granting() -> ScriptedAuthorizationServer:
    """Returns an authorization server that always gives this one token."""
    return ScriptedAuthorizationServer(default=token_reply(TOKEN.decode()))


def lines_of(received: bytes | bytearray, name: bytes) -> list[bytes]:
    """Returns the values of a field in what an upstream received."""
    head = bytes(received).split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.partition(b":") for line in head]
    return [value.strip() for given, _, value in pairs if given.lower() == name.lower()]


# ---- T7: a client chooses where the request, and the token, go


def elsewhere(evil: int) -> list[bytes]:
    """Returns requests that name another server, on this port, in every way there is."""
    at = b"127.0.0.1:%d" % evil
    return [
        request(b"GET", b"http://%b/orders" % at),
        request(b"GET", b"HTTP://%b/orders?x=http://%b/" % (at, at)),
        request(b"GET", b"http://%b" % at),
        request(b"GET", b"/orders/http://%b/" % at),
        request(b"GET", b"/@%b/" % at),
        request(b"GET", b"/:%d/" % evil),
        request(b"GET", b"/orders?url=http://%b/&host=%b" % (at, at)),
        request(b"GET", b"/orders", b"X-Forwarded-Host: " + at, b"X-Host: " + at, b"X-Original-URL: http://%b/" % at),
        request(b"GET", b"/orders", b"Forwarded: host=" + at, b"X-Forwarded-Server: " + at, b"X-Rewrite-URL: //" + at),
        request(b"GET", b"/orders", b"Connection: host"),
        request(b"GET", b"/orders").replace(b"Host: localhost", b"Host: " + at),
        request(b"GET", b"//%b/orders" % at),
        request(b"GET", b"///%b/orders" % at),
        request(b"GET", b"/\\%b/orders" % at),
        request(b"GET", b"http://localhost@%b/orders" % at),
        request(b"GET", b"http://%b#@localhost/" % at),
        request(b"GET", b"https:%b/" % at),
        request(b"GET", b"ftp://%b/" % at),
        request(b"GET", at + b"/orders"),
        request(b"GET", b"?//%b/" % at),
        request(b"CONNECT", at),
        request(b"GET", b"/orders").replace(b"Host: localhost", b"Host: localhost\r\nHost: " + at),
        request(b"GET", b"/orders").replace(b"Host: localhost", b"Host: localhost@" + at),
    ]


@pytest.mark.parametrize("route", ["strip_prefix: true", "host_header: client", "path_policy: raw"])
async def test_t7_a_target_that_names_another_server(tmp_path: Path, route: str):
    """Absolute-form, Host, `@`, `//`, X-Forwarded-Host: the upstream is the configuration's, or nobody's."""
    async with (
        ScriptedUpstream(always(ok())) as upstream,
        ScriptedUpstream(silent) as evil,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
    ):
        answers = [await ask(gateway.port, octets) for octets in elsewhere(evil.port)]
        assert 0 == len(evil.connections)
        assert {200, 400, 501} == {answer.status for answer in answers}
    if "host_header" in route:
        return  # the name is the client's then, the server is not
    assert {b"127.0.0.1:%d" % upstream.port} == {
        host for connection in upstream.connections for one in connection.requests for host in lines_of(one, b"Host")
    }


# ---- T8: a redirect takes token or secret to another server


@pytest.mark.parametrize("status", [302, 307])
async def test_t8_a_redirect_is_not_followed(tmp_path: Path, status: int):
    """The upstream's goes to the client as it is; the authorization server's is a failure. Nobody else is asked."""
    async with ScriptedUpstream(silent) as evil:
        away = f"http://127.0.0.1:{evil.port}/take"
        server = granting()
        server.script.append(Reply(status=status, fields=(("Location", away),)))
        async with (
            ScriptedUpstream(always(ok(b"", b"Location: " + away.encode(), status=b"%d Moved" % status))) as upstream,
            server,
            in_front_of(upstream.port, tmp_path, server=server) as gateway,
        ):
            answer = await ask(gateway.port, request(b"GET"))
            assert 503 == answer.status  # no token
            assert 0 == len(upstream.connections)
            while 503 == (answer := await ask(gateway.port, request(b"POST", body=b"x"))).status:
                pass  # the next try, a second later, brings one
            assert (status, away.encode()) == (answer.status, answer.field(b"Location"))
        assert 0 == len(evil.connections)


# ---- T9: Location tells of the upstream, or sends the client past the gateway


@on_both_loops
async def test_t9_location(tmp_path: Path):
    """The upstream's own addresses become the gateway's; others are the upstream's word; none may hold the token."""
    places: list[tuple[bytes, bytes | None]] = []

    async def redirecting(connection: ScriptedConnection) -> None:
        while True:
            asked = await connection.request()
            place = places[int(asked.split(b"?")[1].split(b" ")[0])][0]
            connection.send(ok(b"", b"Location: " + place, status=b"302 Found"))

    async with ScriptedUpstream(redirecting) as upstream, granting() as server:
        own = b"http://127.0.0.1:%d" % upstream.port
        places += [
            (own + b"/v1/next?a#b", b"/next?a#b"),
            (own.replace(b"http", b"HTTP") + b"/v1", b"/"),
            (b"/v1/next", b"/next"),
            (own + b"/v2/next", own + b"/v2/next"),
            (own + b"/v1//evil.example/", own + b"/v1//evil.example/"),  # not `//evil.example/`
            (own + b".evil.example/v1/", own + b".evil.example/v1/"),
            (own + b"@evil.example/v1/", own + b"@evil.example/v1/"),
            (b"https" + own[4:] + b"/v1/", b"https" + own[4:] + b"/v1/"),
            (b"//evil.example/v1/", b"//evil.example/v1/"),
            (b"next", b"next"),
            (b"/login?token=" + TOKEN, None),
            (b"/login?token=" + TOKEN.replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D"), None),
            (b"/login?token=" + TOKEN.replace(b"+", b"%2b").replace(b"/", b"%2f").replace(b"=", b"%3d"), None),
        ]
        async with in_front_of(own.decode() + "/v1", tmp_path, server=server, route="strip_prefix: true") as gateway:
            for number, (place, expected) in enumerate(places):
                answer = await ask(gateway.port, request(b"GET", b"/?%d" % number))
                assert (expected, 502 if expected is None else 302) == (answer.field(b"Location"), answer.status), place
                assert TOKEN[:6] not in answer.head + answer.body


# ---- T10: somebody else answers at the upstream's address


@on_both_loops
async def test_t10_somebody_else_at_the_upstreams_address(tmp_path: Path):
    """A redirected name, a taken-over address, a forged or an old certificate: not one octet of a request is sent."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    faults = {
        "of another name": server_context(authority.pair("evil.example", file="name")),
        "of another authority": server_context(other.pair("127.0.0.1", "localhost", file="authority")),
        "expired": server_context(authority.pair("127.0.0.1", "localhost", file="old", expired=True)),
        "none": None,
    }
    good = server_context(authority.pair("127.0.0.1", "localhost", file="good"))
    trusting = f"tls: {{ca_file: {authority.file}}}"
    for name, context in faults.items():
        async with ScriptedUpstream(early(ok()) if context is None else always(ok()), ssl=context) as evil:
            for host in ("127.0.0.1", "localhost"):
                url = f"https://{host}:{evil.port}"
                async with in_front_of(url, tmp_path, route=f"{trusting}\nretries: {{connect: 0}}") as gateway:
                    answer = await ask(gateway.port, request(b"GET"))
                    assert (502, "upstream-tls") == (
                        answer.status,
                        json.loads(answer.body)["type"].rpartition(":")[2],
                    ), name
            assert not any(b"GET" in received or b"Bearer" in received for received in evil.received), name
    async with (
        ScriptedUpstream(always(ok()), ssl=good) as upstream,
        in_front_of(f"https://localhost:{upstream.port}", tmp_path, route=trusting) as gateway,
    ):
        assert 200 == (await ask(gateway.port, request(b"GET"))).status


@on_both_loops
async def test_t10_somebody_else_at_the_authorization_servers_address(tmp_path: Path):
    """The client secret is not sent either, and the upstream gets nothing without a token."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    trusting = f"tls: {{ca_file: {authority.file}}}\nrequired: false"
    for pair in (authority.pair("evil.example", file="name"), other.pair("127.0.0.1", file="authority")):
        async with (
            ScriptedAuthorizationServer(tls=server_context(pair)) as evil,
            ScriptedUpstream(always(ok())) as upstream,
            in_front_of(upstream.port, tmp_path, server=evil, credential=trusting) as gateway,
        ):
            assert 503 == (await ask(gateway.port, request(b"GET"))).status
            assert ([], []) == (evil.requests, upstream.connections)


async def test_t10_the_keys_of_a_connection_are_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A variable left in the environment, which makes other programs log them, does not."""
    authority = Authority(tmp_path)
    context = server_context(authority.pair("127.0.0.1"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    trusting = f"tls: {{ca_file: {authority.file}}}"
    async with (
        ScriptedAuthorizationServer(tls=context) as server,
        ScriptedUpstream(always(ok()), ssl=context) as upstream,
        in_front_of(
            f"https://127.0.0.1:{upstream.port}", tmp_path, server=server, route=trusting, credential=trusting
        ) as gateway,
    ):
        assert 200 == (await ask(gateway.port, request(b"GET"))).status
    lines = (
        (tmp_path / "keys").read_text(encoding="ascii").splitlines()
    )  # the library opens it before it is told not to
    assert [] == [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    "switch",
    ["verify: false", "insecure: true", "insecure_skip_verify: true", "check_hostname: false", "min_version: '1.1'"],
)
def test_t10_there_is_no_switch_that_turns_verification_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
):
    """Neither towards the upstream nor towards the authorization server."""
    monkeypatch.chdir(tmp_path)
    assert [] == faults(MINIMAL)
    assert 1 == len(faults(with_route(f"tls: {{{switch}}}")))
    assert 1 == len(faults(with_credential(f"tls: {{{switch}}}")))


def test_t10_plain_http_needs_to_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Beyond loopback, neither a token nor a secret goes over plain http unless the configuration says so."""
    monkeypatch.chdir(tmp_path)
    assert 2 == len(faults(MINIMAL.replace("https:", "http:")))
    asked = with_route("allow_plain_http: true").replace("https:", "http:")
    assert [] == faults(asked.replace("client_secret: ", "allow_plain_http: true\n    client_secret: "))


# ---- T16: the upstream, or a method, shows the client what the gateway sent


@on_both_loops
async def test_t16_methods_that_echo(tmp_path: Path):
    """TRACE and TRACK are 501 in any spelling, first or later on a connection; the upstream hears of none."""
    async with ScriptedUpstream(always(ok())) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        for method in (b"TRACE", b"TRACK", b"Trace", b"DEBUG"):
            assert 501 == (await ask(gateway.port, request(method, b"/", b"Max-Forwards: 0"))).status
        assert 0 == len(upstream.connections)
        async with connected(gateway.port) as client:
            await client.send(request(b"GET") + request(b"TRACE"))
            assert [200, 501] == [(await client.answer()).status for _ in range(2)]
        assert not any(b"TRACE" in received for received in upstream.received)


@on_both_loops
async def test_t16_a_head_that_shows_the_token(tmp_path: Path):
    """502, wherever in a head it stands, also in an interim one, also percent-encoded; a trailer is dropped."""
    encoded = TOKEN.replace(b"+", b"%2B").replace(b"/", b"%2F").replace(b"=", b"%3D")
    showing = [
        ok(b"", b"X-Echo: Bearer " + TOKEN),
        ok(b"", b'X-Echo: {"authorization":"Bearer ' + TOKEN + b'"}'),
        ok(b"", b"Set-Cookie: t=" + TOKEN + b"; HttpOnly"),
        ok(b"", b"Link: <https://api.example/?access_token=" + encoded + b">; rel=next"),
        ok(b"", b"Link: <https://api.example/?access_token=" + encoded.replace(b"%2B", b"%2b").replace(b"%2F", b"%2f").replace(b"%3D", b"%3d") + b">"),
        ok(b"", status=b"200 " + TOKEN),
        b"HTTP/1.1 103 Early Hints\r\nX-Echo: " + TOKEN + b"\r\n\r\n" + ok(),
    ]  # fmt: skip
    async with (
        granting() as server,
        ScriptedUpstream(*(answering(answer) for answer in showing)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server, route="pool: {reuse: false}") as gateway,
    ):
        for answer in showing:
            shown = await ask(gateway.port, request(b"GET"))
            assert 502 == shown.status, answer
            assert TOKEN not in shown.head + shown.body
            assert encoded not in shown.head + shown.body
    switching = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nX-Echo: " + TOKEN + b"\r\n\r\n"
    )
    async with (
        granting() as server,
        ScriptedUpstream(always(switching)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server) as gateway,
    ):
        asking = request(b"GET", b"/", b"Connection: Upgrade", b"Upgrade: x")
        assert 502 == (await ask(gateway.port, asking)).status
    trailer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo\r\n\r\n0\r\nX-Echo: " + TOKEN + b"\r\n\r\n"
    )
    async with (
        granting() as server,
        ScriptedUpstream(always(trailer)) as upstream,
        in_front_of(upstream.port, tmp_path, server=server) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(request(b"GET", b"/", b"Connection: close"))
        assert TOKEN not in (everything := await client.reader.read())
        assert everything.endswith(b"\r\n0\r\n\r\n")


# ---- T21: the client's own credentials


@on_both_loops
async def test_t21_credentials_that_clients_send(tmp_path: Path):
    """The upstream gets one Authorization, ours, and no Proxy-*; cookies pass both ways, and are nobody else's."""
    theirs = [
        b"authorization: Basic dTpw", b"AUTHORIZATION: Bearer theirs", b"Proxy-Authorization: Basic dTpw",
        b"Proxy-Connection: keep-alive", b"Proxy-Anything: x", b"Cookie: theirs=1",
    ]  # fmt: skip
    for top in ("", "access: {trusted_proxies: [127.0.0.0/8]}"):
        async with (
            granting() as server,
            ScriptedUpstream(always(ok(b"", b"Set-Cookie: session=theirs"))) as upstream,
            in_front_of(upstream.port, tmp_path, server=server, top=top) as gateway,
        ):
            answer = await ask(gateway.port, request(b"GET", b"/", *theirs))
            assert b"session=theirs" == answer.field(b"Set-Cookie")
            listed = request(b"GET", b"/", *theirs, b"Connection: authorization, close")
            for octets in (listed, request(b"GET"), request(b"GET", version=b"1.0")):
                assert 200 == (await ask(gateway.port, octets)).status
            twins = request(b"GET", b"/", b"Authorization_: x", b"Proxy_Authorization: x")
            assert 400 == (await ask(gateway.port, twins)).status
            got = [one for connection in upstream.connections for one in connection.requests]
        assert [[b"Bearer " + TOKEN]] * 4 == [lines_of(one, b"Authorization") for one in got]
        assert [[b"theirs=1"], [b"theirs=1"], [], []] == [lines_of(one, b"Cookie") for one in got]
        assert not any(b"\nproxy-" in one.lower() for one in got)


# ---- T22: a client that says who it is


CLAIMS = [
    b"X-Forwarded-For: 10.9.9.9", b"X-Forwarded-Host: evil.example", b"X-Forwarded-Proto: https", b"X-Real-IP: 10.9.9.9",
    b"Forwarded: for=10.9.9.9;host=evil.example", b"X-Forwarded-Port: 9999", b"X-Forwarded-Prefix: /evil",
    b"X-Forwarded-Ssl: on", b"X-Forwarded-User: evil", b"x-forwarded-scheme: https",
]  # fmt: skip
TWINS = [
    b"X_Forwarded_For: 10.9.9.9", b"X-Forwarded_For: 10.9.9.9", b"x_real_ip: 10.9.9.9", b"X_Forwarded_User: evil",
    b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Author_ization: x" , b"X_Request_Id: 1",
]  # fmt: skip


@on_both_loops
async def test_t22_claims_of_a_client(tmp_path: Path):
    """None is passed on as it came, in whatever spelling; what the upstream reads is what the gateway saw."""
    async with ScriptedUpstream(always(ok())) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        assert 200 == (await ask(gateway.port, request(b"GET", b"/", *CLAIMS))).status
        for twin in TWINS:
            status = (await ask(gateway.port, request(b"GET", b"/", twin))).status
            assert (200 if twin.startswith(b"Author_") else 400) == status, twin
        got = upstream.connections[0].requests[0]
    assert [[b"127.0.0.1"], [b"http"], [b"localhost"]] == [
        lines_of(got, b"X-Forwarded-" + name) for name in (b"For", b"Proto", b"Host")
    ]
    assert b"10.9.9.9" not in got
    assert b"evil" not in got
    assert 3 == got.lower().count(b"x-forwarded-")


@on_both_loops
async def test_t22_claims_of_a_trusted_proxy(tmp_path: Path):
    """Only where the socket's peer is listed: its words are kept, and the hop is appended."""
    for networks, hops in (("127.0.0.0/8", b"10.9.9.9, 127.0.0.1"), ("10.9.9.0/24", b"127.0.0.1")):
        top = f"access: {{trusted_proxies: ['{networks}']}}"
        async with ScriptedUpstream(always(ok())) as upstream, in_front_of(upstream.port, tmp_path, top=top) as gateway:
            assert 200 == (await ask(gateway.port, request(b"GET", b"/", *CLAIMS))).status
            got = upstream.connections[0].requests[0]
        assert [hops] == lines_of(got, b"X-Forwarded-For")
        trusted = b"10.9.9.9" in hops
        assert ([b"evil"] if trusted else []) == lines_of(got, b"X-Forwarded-User")
        assert [b"https" if trusted else b"http"] == lines_of(got, b"X-Forwarded-Proto")


# ---- T27: bodies that are small on the wire and huge when unpacked


async def test_t27_packed_bodies_pass_unread(tmp_path: Path):
    """Both ways octet by octet: nothing on the path unpacks."""
    bomb = gzip.compress(bytes(20 * 1024 * 1024))
    async with (
        ScriptedUpstream(always(ok(bomb, b"Content-Encoding: gzip"))) as upstream,
        in_front_of(upstream.port, tmp_path) as gateway,
    ):
        answer = await ask(gateway.port, request(b"POST", b"/", b"Content-Encoding: gzip", body=bomb))
        assert (bomb, b"gzip") == (answer.body, answer.field(b"Content-Encoding"))
        assert upstream.connections[0].requests[0].endswith(b"\r\n\r\n" + bomb)


async def test_t27_a_packed_token_response(tmp_path: Path):
    """Not asked for, so not unpacked: no token; one of more than a mebibyte is not read to its end either."""
    packed = gzip.compress(token_reply().body)
    big = b'{"access_token":"' + b"a" * 1_100_000
    for body, encoding in ((packed, "gzip"), (gzip.compress(bytes(20 * 1024 * 1024)), "gzip"), (big, "identity")):
        server = ScriptedAuthorizationServer(default=Reply(body=body, fields=(("Content-Encoding", encoding),)))
        async with server, ScriptedUpstream(always(ok())) as upstream:
            async with in_front_of(upstream.port, tmp_path, server=server, credential="required: false") as gateway:
                assert 503 == (await ask(gateway.port, request(b"GET"))).status
                assert 1 == await gateway.sample(
                    "bearer_proxy_token_requests_total", credential="main", outcome="malformed"
                )
            assert 0 == len(upstream.connections)
            assert [["identity"]] == [one.values("Accept-Encoding") for one in server.requests]


# ---- T28: a shared cache between client and gateway


async def test_t28_what_a_cache_is_told(tmp_path: Path):
    """The upstream's word passes as it is; a route can say `private` instead; the gateway's own answers are no-store."""
    public = (
        b"Cache-Control: public, max-age=60",
        b"Expires: Thu, 01 Jan 2037 00:00:00 GMT",
        b"Vary: Accept",
        b"Age: 3",
    )
    async with ScriptedUpstream(always(ok(b"x", *public))) as upstream:
        async with in_front_of(upstream.port, tmp_path) as gateway:
            answer = await ask(gateway.port, request(b"GET"))
            assert all(line in answer.head for line in public)
            assert b"no-store" == (await ask(gateway.port, request(b"GET", b"/../"))).field(b"Cache-Control")
        private = "set_response_headers: {Cache-Control: private}\nremove_response_headers: [Expires]"
        async with in_front_of(upstream.port, tmp_path, route=private) as gateway:
            head = (await ask(gateway.port, request(b"GET"))).head
            assert 1 == head.lower().count(b"cache-control")
            assert b"Cache-Control: private\r\n" in head
            assert b"Expires" not in head


# ---- T29: credentials that an upstream ties to a connection


PASSING = """\
version: 1
listen: 127.0.0.1:0
admin: off
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "http://127.0.0.1:{0}", credential: none, client_authorization: pass}}
"""


@on_both_loops
async def test_t29_a_connection_that_somebody_has_authenticated(tmp_path: Path):
    """After a challenge of NTLM or Negotiate, or a request with such credentials, nobody else gets the connection."""
    challenge = ok(b"", b'WWW-Authenticate: Basic realm="a, NTLM", Negotiate', status=b"401 Unauthorized")
    bound = [b"Authorization: NTLM TlRMTVNTUAAB", b"authorization:  negotiate\tYII", b"X: y"]
    for answer, field in zip((ok(), ok(), challenge), bound, strict=True):
        async with ScriptedUpstream(always(answer)) as upstream:
            async with running_gateway(PASSING.format(upstream.port), tmp_path) as gateway:
                await ask(gateway.port, request(b"GET", b"/", field))
                await ask(gateway.port, request(b"GET", b"/"))
            assert [1, 1] == [len(connection.requests) for connection in upstream.connections], field
    async with ScriptedUpstream(always(ok())) as upstream:
        async with running_gateway(PASSING.format(upstream.port), tmp_path) as gateway:
            await ask(gateway.port, request(b"GET", b"/", b"Authorization: Basic dTpw"))
            await ask(gateway.port, request(b"GET", b"/"))
        assert [2] == [len(connection.requests) for connection in upstream.connections]  # of others, it is shared
