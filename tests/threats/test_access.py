"""T1 to T6: who may use the gateway. Whoever can open the port acts as the service account, unless a rule says no.

Each refusal is looked at from three sides: what the attacker reads, what the upstream got, and what the authorization
server was asked.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_client import Answer, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.support.scripted_upstream import ScriptedUpstream, always, ok

GRANTING = b"Access-Control-"


class Rig:
    """A gateway whose route `/orders` takes GET and POST, and both servers behind it."""

    def __init__(
        self, gateway: RunningGateway, upstream: ScriptedUpstream, authorization_server: ScriptedAuthorizationServer
    ) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.authorization_server = authorization_server

    async def refused(self, octets: bytes, status: int, suffix: str) -> Answer:
        """Sends a request and holds that it was refused so, and that nothing behind the gateway was touched."""
        answer = await ask(self.gateway.port, octets)
        assert (status, f"urn:bearer-proxy:problem:{suffix}") == (answer.status, json.loads(answer.body)["type"])
        assert 0 == len(self.upstream.connections)
        assert 0 == len(self.authorization_server.requests)
        return answer

    async def admitted(self, octets: bytes) -> Answer:
        """Sends a request and holds that the upstream answered it."""
        answer = await ask(self.gateway.port, octets)
        assert 200 == answer.status, answer.body
        return answer


@asynccontextmanager
async def rig(folder: Path, *, access: str = "", answer: bytes = ok(b"fine")) -> AsyncIterator[Rig]:
    """Runs a gateway with these access rules; its credential is fetched at first use."""
    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(always(answer)) as upstream:
        text = f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
{access}
credentials:
  main: {{token_endpoint: "{server.url}", client_id: a, client_secret: "${{CLIENT_SECRET}}", required: false}}
routes:
  - name: orders
    match: {{path_prefix: /orders, methods: [GET, POST]}}
    upstream: http://127.0.0.1:{upstream.port}
    credential: main
"""
        async with running_gateway(text, folder, environ={"CLIENT_SECRET": "a secret"}) as gateway:
            yield Rig(gateway, upstream, server)


def request(
    *fields: bytes,
    target: bytes = b"/orders",
    method: bytes = b"GET",
    host: bytes = b"localhost",
    version: bytes = b"1.1",
) -> bytes:
    """Returns the octets of a request; `fields` are whole lines."""
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, target, version), b"Host: " + host, *fields, b"", b""])


# ---- T1: any peer that reaches the port


@pytest.mark.parametrize(
    ("way", "access"),
    [
        ("file", ""),
        ("name", "allowed_hosts: [gateway.internal]"),
        ("command line", "allowed_clients: [10.0.0.0/8]"),
        ("environment", "allowed_hosts: [gateway.internal]"),
    ],
)
async def test_t1_a_port_that_others_reach_needs_both_lists(tmp_path: Path, way: str, access: str):
    """Wherever the address comes from: with one list missing the process does not start, and says which it wants."""
    listen = {"file": "'0.0.0.0:0'", "name": "'gateway.internal:0'"}.get(way, "127.0.0.1:0")
    (tmp_path / "proxy.yaml").write_text(
        f"version: 1\nlisten: {listen}\nadmin: off\naccess: {{{access}}}\n"
        "routes: [{name: all, match: {path_prefix: /}, upstream: 'http://127.0.0.1:9', credential: none}]\n",
        encoding="utf-8",
    )
    words = ["--listen", "[::]:0"] if way == "command line" else []
    env = {"BEARER_PROXY_LISTEN": ":0"} if way == "environment" else {}
    if way == "environment":  # without a file: the four variables, and those of the two lists
        env |= {
            "TOKEN_URL": "http://127.0.0.1:9/t",
            "CLIENT_ID": "a",
            "CLIENT_SECRET": "b",
            "UPSTREAM_URL": "http://127.0.0.1:9",
        }
        env |= {"BEARER_PROXY_ALLOWED_HOSTS": "gateway.internal"} if "hosts" in access else {}
        env |= {"BEARER_PROXY_ALLOWED_CLIENTS": "10.0.0.0/8"} if "clients" in access else {}
    else:
        words += ["-c", "proxy.yaml"]
    where = tmp_path / "empty" if way == "environment" else tmp_path
    where.mkdir(exist_ok=True)

    ended = await program.run("run", *words, cwd=where, env=env)

    assert 2 == ended.code, ended.err
    assert "allowed" in ended.err.lower()


@on_both_loops
async def test_t1_a_peer_outside_the_networks(tmp_path: Path):
    """It is refused before anything it sent is looked at, and its connection does not stay."""
    async with rig(tmp_path, access="access: {allowed_clients: [10.0.0.0/8], allowed_hosts: ['*']}") as here:
        for octets in (request(), request(b"X-Forwarded-For: 10.0.0.1", b"Forwarded: for=10.0.0.1")):
            answer = await here.refused(octets, 403, "client-not-allowed")
            assert b"close" == answer.field(b"Connection")


# ---- T2: more than the routes list


@on_both_loops
async def test_t2_what_no_route_lists(tmp_path: Path):
    """Another path is 404, another method 405: no token is asked for, no upstream connected to."""
    async with rig(tmp_path) as here:
        for target in (b"/", b"/admin", b"/ordersx", b"/Orders", b"/orders%2F..%2Fadmin", b"/%6frders", b"*x"):
            status, suffix = (400, "ambiguous-path") if b".." in target else (404, "no-route")
            status, suffix = (400, "bad-request") if target == b"*x" else (status, suffix)
            await here.refused(request(target=target), status, suffix)
        for method in (b"PUT", b"DELETE", b"PATCH", b"PROPFIND", b"OPTIONS"):
            answer = await here.refused(request(method=method), 405, "method-not-allowed")
            assert b"GET, HEAD, POST" == answer.field(b"Allow")
        for override in (b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /admin", b"X-Rewrite-URL: /admin"):
            await here.refused(request(override, target=b"/admin"), 404, "no-route")
        await here.admitted(request())


# ---- T3: DNS rebinding: the page's own name, pointed at this machine


FOREIGN_HOSTS = [
    b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"evillocalhost",
    b"127.0.0.1.", b"localhost.", b"127.1", b"2130706433", b"0x7f000001", b"0177.0.0.1", b"127.0.0.01", b"127.0.0.2",
    b"0.0.0.0", b"[::]", b"[::ffff:127.0.0.1]", b"[0:0:0:0:0:0:0:1]", b"[v1.localhost]", b"localhost%2eevil", b"*", b"_",
]  # fmt: skip
BAD_HOSTS = [
    b"",
    b"localhost:",
    b"localhost:x",
    b"localhost:99999",
    b"::1",
    b"[::1",
    b"[::1]x",
    b"evil@localhost",
    b"a, localhost",
]


@on_both_loops
async def test_t3_the_name_of_somebody_else(tmp_path: Path):
    """What is not listed letter by letter is another name: 421 before any route is looked for; nonsense is 400."""
    async with rig(tmp_path) as here:
        for host in (*FOREIGN_HOSTS, b"evil.example:%d" % here.gateway.port):
            answer = await here.refused(request(host=host, target=b"/nowhere"), 421, "host-not-allowed")
            assert b"evil" not in answer.head + answer.body
        for host in BAD_HOSTS:
            await here.refused(request(host=host), 400, "bad-request")
        await here.refused(request(target=b"http://evil.example/orders"), 421, "host-not-allowed")  # it names the host
        await here.refused(request(b"Host: evil.example"), 400, "bad-request")
        await here.refused(request(b"X-Forwarded-Host: localhost", host=b"evil.example"), 421, "host-not-allowed")
        for host in (b"LOCALHOST", b"localhost:%d" % here.gateway.port, b"127.0.0.1:1", b"[::1]:65535"):
            await here.admitted(request(host=host))


# ---- T4: requests that a foreign page makes a browser send


FOREIGN = [
    (b"Origin: https://evil.example",),
    (b"Origin: null",),  # a sandboxed frame, a file, a redirect
    (b"Origin: ",),
    (b"Origin: http://localhost.evil.example",),
    (b"Origin: http://localhost:1",),  # another port of this machine
    (b"Origin: http://evil.example@localhost",),
    (b"Origin: localhost",),
    (b"Origin: chrome-extension://abcdefghijklmnop",),
    (b"Origin: http://localhost http://evil.example",),
    (b"Origin: http://localhost", b"Origin: https://evil.example"),
    (b"Origin: https://app.example", b"Origin: https://evil.example"),
    (b"Origin: https://app.example.evil.example",),
    (b"Sec-Fetch-Site: cross-site",),
    (b"Sec-Fetch-Site: same-site",),
    (b"Sec-Fetch-Site: Cross-Site",),
    (b"Sec-Fetch-Site: none, cross-site",),
    (b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: cross-site"),
    (b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document"),
    (b"Origin: http://localhost", b"Sec-Fetch-Site: cross-site"),  # a redirect's last step
]
OWN = [
    (),
    (b"Origin: http://localhost",),
    (b"Origin: HTTP://LOCALHOST",),
    (b"Origin: https://app.example",),
    (b"Origin: https://app.example", b"Sec-Fetch-Site: cross-site"),
    (b"Sec-Fetch-Site: none",),
    (b"Sec-Fetch-Site: same-origin",),
    (b"Sec-Fetch-Site: something-new",),  # Fetch Metadata §2.4: a value not known is no value
]


@on_both_loops
async def test_t4_a_request_of_a_foreign_page(tmp_path: Path):
    """Every method, GET and HEAD too: by its Origin or its Sec-Fetch-Site it is refused; other clients send neither."""
    async with rig(tmp_path, access="access: {allowed_origins: ['https://app.example']}") as here:
        for fields in FOREIGN:
            await here.refused(request(*fields), 403, "browser-refused")
        for method in (b"POST", b"PUT", b"OPTIONS"):
            await here.refused(request(FOREIGN[0][0], method=method), 403, "browser-refused")
        assert 403 == (await ask(here.gateway.port, request(FOREIGN[0][0], method=b"HEAD"))).status
        await here.refused(request(b"Origin: https://evil.example", version=b"1.0"), 403, "browser-refused")
        for fields in OWN:
            await here.admitted(request(*fields))


@on_both_loops
async def test_t4_a_shared_key(tmp_path: Path):
    """Where it is asked for, exactly one right line passes, and the upstream never sees it, nor a twin of it."""
    (tmp_path / "key").write_text("the key 7f3a", encoding="utf-8")
    async with rig(
        tmp_path, access=f"access: {{require_header: {{name: X-Gateway-Key, value_file: {tmp_path / 'key'}}}}}"
    ) as here:
        good = b"X-Gateway-Key: the key 7f3a"
        for lines in (
            (),
            (b"X-Gateway-Key: wrong",),
            (b"X-Gateway-Key: the key 7f3",),
            (good, good),
            (b"X-Gateway-Key:",),
        ):
            await here.refused(request(*lines), 403, "key-required")
        await here.refused(request(good, b"X_Gateway_Key: the key 7f3a"), 400, "bad-request")
        await here.admitted(request(good.replace(b"X-Gateway-Key", b"x-gateway-KEY")))
        assert b"7f3a" not in b"".join(here.upstream.received)


# ---- T5: a preflight that the gateway would answer with the token's power


PREFLIGHT = (b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: authorization, x-a")


@on_both_loops
async def test_t5_a_preflight(tmp_path: Path):
    """It is refused here, and no Access-Control field is made up, for whatever network or origin it asks."""
    async with rig(tmp_path, access="access: {allowed_origins: ['https://app.example']}") as here:
        for more in (
            (),
            (b"Access-Control-Request-Private-Network: true",),
            (b"Access-Control-Request-Local-Network: true",),
        ):
            for origin in (b"Origin: https://evil.example", b"Origin: null"):
                for target in (b"/orders", b"/nowhere", b"*"):
                    octets = request(origin, *PREFLIGHT, *more, method=b"OPTIONS", target=target)
                    answer = await here.refused(octets, 403, "browser-refused")
                    assert GRANTING not in answer.head
        answer = await here.admitted(request(b"Origin: https://app.example"))
        assert GRANTING not in answer.head  # what the upstream does not say, the gateway does not


# ---- T6: a WebSocket opened by a foreign page, which no preflight precedes


UPGRADE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@on_both_loops
async def test_t6_an_upgrade_asked_for_by_a_foreign_page(tmp_path: Path):
    """The same rule as for every other request, before any upgrade; an origin that is listed gets its tunnel."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    access = "access: {allowed_origins: ['https://app.example']}"
    async with rig(tmp_path, access=access, answer=switching) as here:
        for fields in ((b"Origin: https://evil.example",), (b"Origin: null",), (b"Sec-Fetch-Site: cross-site",)):
            await here.refused(request(*UPGRADE, *fields), 403, "browser-refused")
        await here.refused(request(*UPGRADE, host=b"evil.example"), 421, "host-not-allowed")
        await here.refused(request(*UPGRADE, target=b"/nowhere"), 404, "no-route")
        listed = request(*UPGRADE, b"Origin: https://app.example", b"Sec-Fetch-Site: cross-site")
        assert 101 == (await ask(here.gateway.port, listed)).status
