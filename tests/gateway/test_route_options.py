"""Every option of a route, as it is written in a file and as the upstream and the client see it, octet by octet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fronting import ONE_TRY, connected, in_front_of, request
from tests.support.full_listener import full_listener
from tests.support.raw_client import Answer, ask
from tests.support.scripted_upstream import ScriptedUpstream, always, ok, silent

TOKEN = b"Authorization: Bearer at-1"
ANSWER = ok(b"fine", b"Server: secret/1.0", b"Location: /v1/7?x=1", b"X-Kept: \xe9", status=b"201 Made Here")


async def exchanged(folder: Path, route: str, octets: bytes, *, base: str = "", top: str = "") -> tuple[bytes, Answer]:
    """Returns what the upstream got for a request, and what its client got."""
    async with ScriptedUpstream(always(ANSWER)) as upstream:
        url = f"http://127.0.0.1:{upstream.port}{base}"
        async with in_front_of(url, folder, route=route, top=top) as gateway:
            answer = await ask(gateway.port, octets)
        return (upstream.connections[0].requests[0] if upstream.connections else b""), answer


@pytest.mark.parametrize(
    ("route", "octets", "there", "not_there"),
    [
        ("", request(), [TOKEN, b"Via: 1.1 bearer-proxy", b"X-Forwarded-For: 127.0.0.1"], [b"\nHost: localhost"]),
        ("host_header: client", request(), [b"Host: localhost"], []),
        ("host_header: api.internal", request(), [b"Host: api.internal"], [b"\nHost: localhost"]),
        ("forwarding: {via: false}", request(), [b"X-Forwarded-For: 127.0.0.1"], [b"Via"]),
        ("forwarding: {x_forwarded: false}", request(), [b"Via"], [b"X-Forwarded"]),
        ("header_name: X-Token", request(), [b"X-Token: Bearer at-1"], [b"Authorization"]),
        ("", request(b"GET", b"/", b"Authorization: Basic mine"), [TOKEN], [b"mine"]),
        ("set_request_headers: {X-Team: {value_file: team}}", request(b"GET", b"/", b"x-team: mine"), [b"X-Team: legacy"], [b"mine"]),
        ("remove_request_headers: [Cookie]", request(b"GET", b"/", b"cookie: a=b"), [TOKEN], [b"a=b"]),
        ("underscore_fields: drop", request(b"GET", b"/", b"X_Odd: 1"), [TOKEN], [b"X_Odd"]),
        ("", request(b"GET", b"/", b"X_Odd: 1"), [b"X_Odd: 1"], []),
        ("path_policy: raw", request(b"GET", b"/a/../b"), [b"GET /a/../b HTTP/1.1"], []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_what_the_upstream_gets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    octets: bytes,
    there: list[bytes],
    not_there: list[bytes],
):
    """The token in any case; of the rest, what the option says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team").write_text("legacy\n")
    received, answer = await exchanged(tmp_path, route, octets)
    assert 201 == answer.status
    assert 1 == received.count(b"Bearer at-1")
    for text in there:
        assert b"%b\r\n" % text in received or b"%b:" % text in received, (text, received)
    for text in not_there:
        assert text.lower() not in received.lower(), (text, received)


@pytest.mark.parametrize(
    ("route", "octets", "status", "suffix"),
    [
        (
            "client_authorization: refuse",
            request(b"GET", b"/", b"Authorization: Basic mine"),
            400,
            "authorization-refused",
        ),
        ("underscore_fields: refuse", request(b"GET", b"/", b"X_Odd: 1"), 400, "bad-request"),
        ("", request(b"GET", b"/", b"X_Forwarded_For: 1.2.3.4"), 400, "bad-request"),
        ("limits: {body_bytes: 3}", request(b"POST", b"/", body=b"four"), 413, "body-too-large"),
        ("access: {require_header: {name: X-Key, value: k-1}}", request(), 403, "key-required"),
        ("access: {allowed_clients: [127.0.0.2/32]}", request(), 403, "client-not-allowed"),
        ("rate_limit: {requests_per_second: 0.01, burst: 1}", request() + request(), 429, "rate-limited"),
    ],
)
async def test_what_is_refused(tmp_path: Path, route: str, octets: bytes, status: int, suffix: str):
    """By a rule of the route's own, before the upstream hears of it."""
    async with (
        ScriptedUpstream(always(ANSWER)) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as client,
    ):
        await client.send(octets)
        answers = [await client.answer() for _ in range(octets.count(b" HTTP/1.1\r\n"))]
    assert status == answers[-1].status
    assert f"urn:bearer-proxy:problem:{suffix}" == json.loads(answers[-1].body)["type"]
    assert len(answers) - 1 == sum(len(connection.requests) for connection in upstream.connections)


async def test_what_the_client_gets(tmp_path: Path):
    """Status, reason, fields and body as they came, but for what the options say."""
    _, answer = await exchanged(tmp_path, "", request(b"GET", b"/7"), base="/v1")
    assert answer.head.startswith(b"HTTP/1.1 201 Made Here\r\n")
    assert b"secret/1.0" == answer.field(b"Server")
    assert b"/7?x=1" == answer.field(b"Location")
    assert b"X-Kept: \xe9\r\n" in answer.head
    assert b"fine" == answer.body

    route = "rewrite_location: false\nremove_response_headers: [Server]\nset_response_headers: {X-Kept: ours}"
    _, answer = await exchanged(tmp_path, route, request(b"GET", b"/7"), base="/v1")
    assert (None, b"/v1/7?x=1", b"ours") == tuple(map(answer.field, (b"Server", b"Location", b"X-Kept")))


async def test_a_header_value_in_a_file_that_changes(tmp_path: Path):
    """It is read again: the next request has the new one."""
    file = tmp_path / "team"
    file.write_text("first")
    route = f"set_request_headers: {{X-Team: {{value_file: {file}}}}}"
    async with (
        ScriptedUpstream(always(ok(b""))) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
    ):
        await ask(gateway.port, request())
        file.write_text("the second")
        await ask(gateway.port, request())
    sent = [octets for connection in upstream.connections for octets in connection.requests]
    assert [b"X-Team: first\r\n" in sent[0], b"X-Team: the second\r\n" in sent[1]] == [True, True]


# ---- bounds, each with its own error


async def test_a_connection_that_takes_too_long(tmp_path: Path):
    """timeouts.connect: 504, connection_timeout."""
    with full_listener() as port:
        route = f"{ONE_TRY}\ntimeouts: {{connect: 200ms}}"
        async with in_front_of(port, tmp_path, route=route) as gateway:
            answer = await ask(gateway.port, request())
    assert (504, b"bearer-proxy; error=connection_timeout") == (answer.status, answer.field(b"Proxy-Status"))


@pytest.mark.parametrize("pool", ["max_pending: 0", "pending_timeout: 200ms"])
async def test_no_connection_is_free(tmp_path: Path, pool: str):
    """The pool's bounds: 503 with Retry-After, while the request that has the connection goes on."""
    route = f"pool: {{max_connections: 1, {pool}}}"
    async with (
        ScriptedUpstream(silent) as upstream,
        in_front_of(upstream.port, tmp_path, route=route) as gateway,
        connected(gateway.port) as first,
    ):
        await first.send(request())
        await (await upstream.connection()).head()
        answer = await ask(gateway.port, request())
        assert (503, b"1") == (answer.status, answer.field(b"Retry-After"))
        assert "urn:bearer-proxy:problem:overloaded" == json.loads(answer.body)["type"]
        assert b"bearer-proxy; error=connection_limit_reached" == answer.field(b"Proxy-Status")
        upstream.connections[0].send(ok(b"late"))
        assert b"late" == (await first.answer()).body


async def test_retries_of_an_upstream_in_trouble(tmp_path: Path):
    """retries.budget: a reserve of ten, and then a fifth of the requests, however many fail."""
    with full_listener() as port:
        pass  # nobody listens there any more
    async with in_front_of(port, tmp_path, route="retries: {connect: 1, budget: 0.2}") as gateway:
        for _ in range(50):
            assert 502 == (await ask(gateway.port, request())).status
        tries = await gateway.sample("bearer_proxy_upstream_errors_total", route="all", error="connection_refused")
    assert 50 + 10 < tries <= 50 + 10 + 10


# ---- what the operator reads


async def test_the_line_of_a_request(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Who asked for what, what became of it, by which credential, and how long each part took; no value of the query."""
    caplog.set_level("INFO", "proxy.access")
    async with ScriptedUpstream(always(ok(b"fine"))) as upstream, in_front_of(upstream.port, tmp_path) as gateway:
        await ask(gateway.port, request(b"POST", b"/7?key=s3cret&s3cret", b"X-Request-Id: r-1", body=b"four"))
    (line,) = [record.__dict__["fields"] for record in caplog.records if record.name == "proxy.access"]
    expected = {
        "request_id": "r-1", "client": "127.0.0.1", "method": "POST", "target": "/7?key=*&*", "status": 200,
        "request_bytes": 4, "response_bytes": 4, "route": "all", "credential": "main", "tries": 1,
    }  # fmt: skip
    assert expected == {key: line[key] for key in expected}
    parts = {"duration_ms", "before_upstream_ms", "upstream_ms", "first_byte_ms"}
    assert set(expected) | parts == set(line)
    assert line["duration_ms"] >= line["first_byte_ms"] >= line["upstream_ms"] >= 0
