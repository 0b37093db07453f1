"""What the gateway refuses before anything else is touched: raw octets in, a small problem document out.

Each row is sent twice: as a connection's first request, which the front protocol reads, and as a second one, which
aiohttp's parser reads. The upstream sees none of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_client import RawClient, ask


@pytest.fixture
async def servers() -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=SystemClock()) as running:
        yield running


@pytest.fixture
async def gateway(servers: DemoServers, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    settings = servers.settings()
    text = f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
limits: {{head_bytes: 4KiB, field_count: 20, body_bytes: 1KiB}}
credentials:
  main:
    token_endpoint: {settings["TOKEN_URL"]}
    client_id: legacy-app
    client_secret: ${{CLIENT_SECRET}}
    required: false
routes:
  - name: orders
    match: {{path_prefix: /orders, methods: [GET, POST]}}
    upstream: {settings["UPSTREAM_URL"]}
    credential: main
    client_authorization: refuse
  - name: raw
    match: {{path_prefix: /raw}}
    upstream: {settings["UPSTREAM_URL"]}
    credential: main
    path_policy: raw
  - name: slow
    match: {{path_exact: /slow}}
    upstream: {settings["UPSTREAM_URL"]}
    credential: main
    rate_limit: {{requests_per_second: 0.01, burst: 1}}
"""
    async with running_gateway(text, tmp_path, environ=settings) as running:
        yield running


def get(path: bytes = b"/orders", *fields: bytes, method: bytes = b"GET", host: bytes = b"Host: localhost") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", host, *fields, b"", b""])


ROWS = [
    pytest.param(get(b"/nowhere"), 404, "no-route", id="no route"),
    pytest.param(get(b"/ordersx"), 404, "no-route", id="not at a segment boundary"),
    pytest.param(get(method=b"DELETE"), 405, "method-not-allowed", id="wrong method"),
    pytest.param(get(method=b"TRACE"), 501, "not-implemented", id="TRACE"),
    pytest.param(get(host=b"Host: evil.example"), 421, "host-not-allowed", id="foreign Host"),
    pytest.param(get(host=b"Host: localhost@evil"), 400, "bad-request", id="user information in Host"),
    pytest.param(get(host=b"Host: a, b"), 400, "bad-request", id="a list in Host"),
    pytest.param(get(host=b"Host: localhost\r\nHost: localhost"), 400, "bad-request", id="two Hosts"),
    pytest.param(get(host=b"X: y"), 400, "bad-request", id="no Host"),
    pytest.param(get(b"http://evil.example/orders"), 421, "host-not-allowed", id="absolute-form to another host"),
    pytest.param(get(b"/orders", b"Origin: https://evil.example"), 403, "browser-refused", id="foreign Origin"),
    pytest.param(get(b"/orders", b"Sec-Fetch-Site: cross-site"), 403, "browser-refused", id="cross-site"),
    pytest.param(
        get(b"/orders", b"Origin: https://evil.example", b"Access-Control-Request-Method: POST", method=b"OPTIONS"),
        403, "browser-refused", id="preflight",
    ),
    pytest.param(get(b"/orders/../admin"), 400, "ambiguous-path", id="dot segment"),
    pytest.param(get(b"/orders/%2e%2e/admin"), 400, "ambiguous-path", id="encoded dot segment"),
    pytest.param(get(b"/orders/..%2fraw"), 400, "ambiguous-path", id="encoded slash behind dots"),
    pytest.param(get(b"/orders/%252e%252e/"), 400, "ambiguous-path", id="twice encoded"),
    pytest.param(get(b"/orders/\\x"), 400, "ambiguous-path", id="backslash"),
    pytest.param(get(b"/orders/%zz"), 400, "ambiguous-path", id="malformed percent"),
    pytest.param(get(b"//orders"), 400, "ambiguous-path", id="leading //"),
    pytest.param(get(b"/orders", b"Authorization: Basic x"), 400, "authorization-refused", id="own Authorization"),
    pytest.param(get(b"/orders", b"Expect: magic"), 417, "expectation-failed", id="unknown expectation"),
    pytest.param(get(b"/orders", b"X_Request_Id: 1"), 400, "bad-request", id="underscore twin"),
    pytest.param(get(b"/orders", *[b"X-%d: 1" % i for i in range(25)]), 431, "head-too-large", id="25 fields"),
    pytest.param(get(b"/orders", b"X: " + b"a" * 5000), 431, "head-too-large", id="5000 octets in a field"),
    pytest.param(
        get(b"/orders", b"Content-Length: 2000", method=b"POST") + b"a" * 2000, 413, "body-too-large", id="declared body"
    ),
    pytest.param(
        get(b"/orders", b"Transfer-Encoding: gzip, chunked", method=b"POST") + b"0\r\n\r\n",
        501, "not-implemented", id="unknown transfer coding",
    ),
    pytest.param(
        get(b"/orders", b"Transfer-Encoding: chunked", b"Content-Length: 5", method=b"POST") + b"0\r\n\r\n",
        400, "bad-request", id="both framings",
    ),
    pytest.param(get(b"/orders", b"Content-Length: +5", method=b"POST"), 400, "bad-request", id="signed length"),
    pytest.param(get(b"/orders", b"X : y"), 400, "bad-request", id="space before colon"),
    pytest.param(get(b"/orders", b"X: a\r\n b"), 400, "bad-request", id="folded line"),
    pytest.param(get(b"/or ders"), 400, "bad-request", id="space in target"),
    pytest.param(get(b"/orders#x"), 400, "bad-request", id="fragment"),
    pytest.param(b"GET /orders HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "version-not-supported", id="HTTP/2.0"),
    pytest.param(
        b"".join([get(b"/orders", *[b"Via: 1.1 bearer-proxy"] * 3)]), 508, "loop-detected", id="loop"
    ),
]  # fmt: skip


@pytest.mark.parametrize("position", ["first", "second"])
@pytest.mark.parametrize(("request_octets", "status", "suffix"), ROWS)
async def test_refused(
    servers: DemoServers,
    gateway: RunningGateway,
    caplog: pytest.LogCaptureFixture,
    request_octets: bytes,
    status: int,
    suffix: str,
    position: str,
):
    """Refused with its own status and a document that quotes nothing; no token is fetched, no upstream touched.

    The access log says what the client is told, and the error of Proxy-Status.
    """
    caplog.set_level("INFO", "proxy.access")
    client = await RawClient.connect(gateway.port)
    if position == "second":
        await client.send(get(b"/nowhere"))
        assert 404 == (await client.answer()).status
    await client.send(request_octets)
    answer = await client.answer()
    await client.close()

    assert status == answer.status, answer.body
    document = json.loads(answer.body)
    assert {"type": f"urn:bearer-proxy:problem:{suffix}", "status": status} == {
        key: document[key] for key in ("type", "status")
    }
    assert b"no-store" == answer.field(b"Cache-Control")
    assert (answer.field(b"Proxy-Status") or b"").startswith(b"bearer-proxy; error=")
    assert b"evil" not in answer.head + answer.body
    assert 0 == servers.protected_api.requests
    assert 0 == servers.authorization_server.grants
    assert 1 <= await gateway.sample("bearer_proxy_requests_refused_total", reason=suffix)
    line = [record.__dict__["fields"] for record in caplog.records if record.name == "proxy.access"][-1]
    assert (status, suffix, "client") == (line["status"], line["problem"], line["failed"])
    assert (answer.field(b"Proxy-Status") or b"").endswith(b"error=" + line["error"].encode())


async def test_wrong_method_says_which_are_right(gateway: RunningGateway):
    """405 comes with Allow; HEAD comes with GET."""
    answer = await ask(gateway.port, get(method=b"PUT"))
    assert b"GET, HEAD, POST" == answer.field(b"Allow")


async def test_a_raw_route_takes_ambiguous_paths(servers: DemoServers, gateway: RunningGateway):
    """`path_policy: raw` forwards all that is grammatical, byte for byte."""
    answer = await ask(gateway.port, get(b"/raw/../%2e/x?a=%zz"))
    assert 404 == answer.status  # the API's own: it has no such path
    assert b"application/problem+json" != answer.field(b"Content-Type")
    assert 1 == servers.protected_api.requests


async def test_the_rate_limit_says_when_to_come_back(servers: DemoServers, gateway: RunningGateway):
    """429 with Retry-After beyond the burst, and the upstream is spared."""
    assert 200 == (await ask(gateway.port, get(b"/slow?seconds=0"))).status
    answer = await ask(gateway.port, get(b"/slow?seconds=0"))
    assert 429 == answer.status
    assert 90 <= int(answer.field(b"Retry-After") or b"0") <= 100
    assert 1 == servers.protected_api.requests


async def test_options_of_the_server_is_answered_here(servers: DemoServers, gateway: RunningGateway):
    """`OPTIONS *` is about the gateway itself."""
    assert 204 == (await ask(gateway.port, get(b"*", method=b"OPTIONS"))).status
    assert 0 == servers.protected_api.requests


async def test_the_request_id_is_the_clients_if_it_is_grammatical(gateway: RunningGateway):
    """A good X-Request-Id comes back in the problem; a bad one is replaced."""
    answer = await ask(gateway.port, get(b"/nowhere", b"X-Request-Id: abc-123"))
    assert "abc-123" == json.loads(answer.body)["request_id"]
    for bad in (b"x" * 129, b"a b", b"caf\xe9"):
        answer = await ask(gateway.port, get(b"/nowhere", b"X-Request-Id: " + bad))
        made = json.loads(answer.body)["request_id"]
        assert 32 == len(made)


async def test_http_10_without_host_passes(servers: DemoServers, gateway: RunningGateway):
    """Old clients send no Host; the answer ends with the connection."""
    client = await RawClient.connect(gateway.port)
    await client.send(b"GET /orders HTTP/1.0\r\n\r\n")
    answer = await client.answer()
    assert (200, b"close") == (answer.status, answer.field(b"Connection"))
    assert await client.closed()
    await client.close()


async def test_500_random_requests_add_no_series(gateway: RunningGateway):
    """No label value is a client's choice."""
    before = set(await gateway.samples())
    client = await RawClient.connect(gateway.port)
    for number in range(500):
        await client.send(get(b"/x%d" % number, b"X-%d: 1" % number))
        assert 404 == (await client.answer()).status
    await client.close()
    grown = {name for name, labels in set(await gateway.samples()) - before if name.startswith("bearer_proxy_")}
    assert grown <= {"bearer_proxy_http_requests_total", "bearer_proxy_http_requests_created"}
