"""Token and secret stay inside: a gateway lives through many failures, and then everything it has said is searched.

A client's own words stay its own: a method, a path or an X-Request-Id that holds a token is logged as it came. And an
upstream that repeats the token in a response's body tells it to the client: the gateway reads heads, not bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus

import aiohttp
import pytest

from proxy import cli, log
from proxy.admin.exposition import Exposition
from proxy.admin.status import status_document
from proxy.clock import SystemClock
from proxy.errors import Problem
from proxy.gateway.problem import problem_reply
from proxy.metrics import GatewayMetrics
from proxy.routing import RouteName
from tests.admin.facts import ORDERS, Facts
from tests.oauth.registrations import private_key
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.canaries import Canary, traces
from tests.support.fronting import connected, in_front_of, request
from tests.support.raw_client import ask
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    json_reply,
    token_reply,
)
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, ok

SECRET = Canary("client secret", 'q7VtX2mK9rWz+%:&"é ü5NbY8cLd3FhJ')
TOKEN = Canary("access token", "Zk4Qw8.eR6tY-uI2oP~aS9dF_gH1jK+lX3cV/bN7mM==")
RENEWED = Canary("renewed token", "Gt5Hy6.jU7kI-lO8pQ~wE9rT_yU0iO+pA1sD/fG2hJ==")
TEAM = Canary("value of set_request_headers", "Wq2Er4.tY6uI8-oP0aS3dF5g")
KEY = Canary("value of token_request_headers", "Hn6Tz1.bV4cX9-kJ7gF2wQ8e")
CANARIES = (SECRET, TOKEN, RENEWED, TEAM, KEY)
CLIENT_ID = "legacy-app"
BASIC = b64encode(f"{quote_plus(CLIENT_ID)}:{quote_plus(SECRET.text)}".encode()).decode()
BEARER = TOKEN.text.encode()


def jwt(claims: dict[str, object]) -> str:
    """Returns a client assertion as it is sent (RFC 7523), with a signature of no worth."""
    parts = json.dumps({"alg": "HS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"signature"
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


# ---- the search itself


PLANTED = {
    "as it is": SECRET.text,
    "in the middle of a line": f'{{"level":"info","target":"/x?{SECRET.text}","status":200}}',
    "in capitals": SECRET.text.upper(),
    "its first half": SECRET.text[:14],
    "its second half": SECRET.text[-14:],
    "form-encoded": f"client_secret={quote_plus(SECRET.text)}&scope=a",
    "percent-encoded": quote(SECRET.text, safe=""),
    "percent-encoded, lower case": quote(SECRET.text, safe="").lower(),
    "as JSON": json.dumps({"client_secret": SECRET.text}),
    "as JSON in JSON": json.dumps(json.dumps({"client_secret": SECRET.text})),
    "as a repr": repr({"secret": SECRET.text}),
    "as a repr of bytes": repr([SECRET.text.encode()]),
    "in hexadecimal": SECRET.text.encode().hex(),
    "in Basic credentials": f"Authorization: Basic {BASIC}",
    "in Basic credentials, not form-encoded": b64encode(f"id:{SECRET.text}".encode()).decode(),
    "in Base64 for URLs, without padding": urlsafe_b64encode(f"??>{SECRET.text}".encode()).decode().rstrip("="),
    "in a JWT assertion": "client_assertion="
    + jwt({"iss": CLIENT_ID, "aud": "https://as.example", "jti": SECRET.text}),
    "in Base64 behind other text": "x" + b64encode(f"\xff~?{SECRET.text}".encode()).decode(),
}


@pytest.mark.parametrize("planted", [pytest.param(text, id=name) for name, text in PLANTED.items()])
def test_t12_a_canary_is_found_in_every_shape(planted: str):
    """What is not found when it is there proves nothing when it is not found."""
    dull = '{"ts":"2026-11-23T21:34:37.000Z","level":"info","logger":"proxy.access","message":"request"}\n' * 50
    places = {
        name: f"{dull}{text}\n{dull}".encode()
        for name, text in {
            "log": planted,
            "metrics": "",
            "status": planted,
            "problem": "Basic bGVnYWN5LWFwcDo=",
        }.items()
    }
    assert ["client secret in log", "client secret in status"] == traces(CANARIES, places)


def logged(text: str, style: str) -> bytes:
    """Returns a log that tells a text at debug, among lines that do not."""
    stream = io.StringIO()
    handle = log.configure(style, "debug", stream)
    try:
        for reason in (*["connection refused"] * 20, f"got {text} instead", *["connection refused"] * 20):
            logging.getLogger("proxy.tokens").debug("no access token", extra={"fields": {"reason": reason}})
        assert handle.stop(10)
    finally:
        handle.detach()
    return stream.getvalue().encode()


async def test_a_canary_is_found_in_every_place():
    """In real output of each kind that is searched below, where it is told on purpose."""
    facts = Facts()
    facts.metrics = GatewayMetrics([SECRET.text])
    facts.routes = [replace(ORDERS, name=RouteName(SECRET.text))]
    metrics, _ = await Exposition(facts.admin_facts(), SystemClock(), version="1").render("text/plain")
    places = {
        "log as JSON": logged(SECRET.text, "json"),
        "log as text": logged(SECRET.text, "text"),
        "metrics": metrics,
        "status page": json.dumps(status_document(facts.admin_facts(), version="1", uptime_s=1.0)).encode(),
        "problem": problem_reply(Problem.NO_ROUTE, quote_plus(SECRET.text).encode()).body,
        "repr": repr(facts.routes).encode(),
        "traceback": "".join(traceback.format_exception(ValueError(SECRET.text))).encode(),
    }
    assert [f"client secret in {place}" for place in places] == traces(CANARIES, places)


# ---- a life full of failures

# What the authorization servers of the route `/as/NAME` say instead of giving a token.
BAD_REPLIES = {
    "plain": error_reply("invalid_client", 401, error_description=f"no client has the secret {SECRET.text}"),
    "form": error_reply("invalid_request", 400, error_description=f"client_secret={quote_plus(SECRET.text)} is wrong"),
    "lower": error_reply("invalid_request", 400, error_description=f"got {quote_plus(SECRET.text).lower()}"),
    "percent": error_reply("invalid_request", 400, error_description=f"got {quote(SECRET.text, safe='')}"),
    "quoted": error_reply("invalid_client", 401, error_description=json.dumps({"secret": SECRET.text})),
    "in_part": error_reply("invalid_client", 401, error_description=f"wrong secret {SECRET.text[:12]}..."),
    "basic": error_reply("invalid_client", 401, error_description=f"Basic {BASIC} is not known"),
    "header": error_reply("invalid_client", 401, error_description=f"X-Key {KEY.text} is not known"),
    "unpadded": error_reply("invalid_client", 401, error_description=f"{BASIC.rstrip('=')} is not known"),
    "long": error_reply("invalid_client", 401, error_description="x" * 190 + SECRET.text),
    "code": error_reply(SECRET.text, 400, error_uri=f"https://as.example/?{quote_plus(SECRET.text)}"),
    "code_encoded": error_reply(quote_plus(SECRET.text).replace("%", ""), 400),
    "html": Reply(status=500, body=f"<pre>{SECRET.text}</pre>".encode(), fields=(("Content-Type", "text/html"),)),
    "head": Reply(status=401, body=b"{}", fields=(("WWW-Authenticate", f'Basic realm="{quote(SECRET.text)}"'),)),
    "redirect": Reply(status=302, fields=(("Location", f"https://as.example/{quote(SECRET.text)}"),)),
    "no_http": Reply(raw=f"{SECRET.text}\r\n\r\n".encode()),
    "bad_head": Reply(raw=b"HTTP/1.1 200 OK\r\nX : " + BASIC.encode() + b"\r\n\r\n"),
    "cut": Reply(body=json.dumps({"access_token": TOKEN.text, "token_type": "Bearer"}).encode()[:-3]),
    "other_type": json_reply(access_token=TOKEN.text, token_type=f"mac {TOKEN.text}", expires_in=60),
    "with_error": error_reply("temporarily_unavailable", 503, error_description=f"but {TOKEN.text}", id_token=TOKEN.text),
    "bad_token": json_reply(access_token=f"{TOKEN.text} {SECRET.text}", token_type="bearer"),
    "bad_expiry": json_reply(access_token=[TOKEN.text], expires_in=TOKEN.text),
}  # fmt: skip


# What the upstream of the route `/api` says to `GET /api/NAME`; in the first group a head shows the token.
SHOWING = {
    "field": ok(b"", b"X-Debug: " + BEARER),
    "field_name": ok(b"", b"X-" + BEARER.replace(b"/", b"|").replace(b"=", b"!") + b": " + BEARER),
    "location": ok(b"", b"Location: /login?token=" + BEARER, status=b"302 Found"),
    "cookie": ok(b"", b"Set-Cookie: a=b", b"Set-Cookie: t=" + BEARER + b"; HttpOnly"),
    "reason": ok(b"", status=b"403 " + BEARER),
    "challenge": ok(b"", b'WWW-Authenticate: Bearer error="insufficient_scope", t="' + BEARER + b'"', status=b"403 No"),
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: <" + BEARER + b">\r\n\r\n" + ok(b""),
    "connection": ok(b"", b"Connection: x-debug", b"X-Debug: " + BEARER),
    "renewed": ok(b"", b"WWW-Authenticate: Bearer", status=b"401 Unauthorized"),  # and then shows the renewed token
}
TROUBLE = {
    "status_line": b"HTTP/1.1 " + BEARER + b"\r\n\r\n",
    "no_http": BEARER + b"\r\n\r\n",
    "bad_field": b"HTTP/1.1 200 OK\r\nX : " + BEARER + b"\r\n\r\n",
    "bad_length": b"HTTP/1.1 200 OK\r\nContent-Length: " + BEARER + b"\r\n\r\n",
    "bad_coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + BEARER + b"\r\n\r\n",
    "too_big": b"HTTP/1.1 200 OK\r\n" + b"X: " + BEARER * 1000 + b"\r\n\r\n",
    "switch": b"HTTP/1.1 101 " + BEARER + b"\r\nUpgrade: " + BEARER + b"\r\n\r\n",
    "chunk_size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + BEARER + b"\r\n",
    "chunk_end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na" + BEARER + b"\r\n",
    "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Debug: " + BEARER + b"\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "reset": b"",
    "stray": ok(b"") + BEARER,
}
CLOSE = b"Connection: close"
# What clients send beside; none is forwarded as it is.
MALFORMED = {
    "line": b"GET / " + BEARER + b" HTTP/1.1\r\n\r\n",
    "version": b"GET / HTTP/" + BEARER + b"\r\n\r\n",
    "host": b"GET / HTTP/1.1\r\nHost: " + BEARER + b"\r\n\r\n",
    "user": b"GET http://u:" + BEARER + b"@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no_route": request(b"GET", b"/nowhere?t=" + BEARER + b"&" + BEARER.rstrip(b"="), CLOSE, b"Authorization: Bearer " + BEARER),
    "name": request(b"GET", b"/", BEARER + b": x"),
    "control": request(b"GET", b"/", b"Authorization: Bearer \x01" + BEARER),
    "folded": request(b"GET", b"/", b"Authorization: Bearer", b" " + BEARER),
    "length": request(b"POST", b"/api/fine", b"Content-Length: " + BEARER),
    "coding": request(b"POST", b"/api/fine", b"Transfer-Encoding: " + BEARER),
    "expect": request(b"POST", b"/api/fine", b"Expect: " + BEARER),
    "id": request(b"GET", b"/nowhere", CLOSE, b"X-Request-Id: \x80" + BEARER),
    "chunk": request(b"POST", b"/api/fine", b"Transfer-Encoding: chunked") + BEARER + b"\r\n",
    "big": request(b"GET", b"/", b"Cookie: " + BEARER * 1000),
    "tls": b"\x16\x03\x01\x02\x00" + BEARER + b"\r\n\r\n",
    "origin": request(b"GET", b"/api/fine", CLOSE, b"Origin: https://" + BEARER),
}  # fmt: skip


async def api(connection: ScriptedConnection) -> None:
    """The upstream: does what the path says."""
    while True:
        head = await connection.request()
        assert b"\r\nAuthorization: Bearer " in head
        name = head.split(b" ")[1].partition(b"?")[0].rpartition(b"/")[2].decode()
        if name == "renewed" and RENEWED.text.encode() in head:
            connection.send(ok(b"", b"X-Debug: " + RENEWED.text.encode()))
        elif name == "hang":
            return
        elif name in {"cut", "reset"}:
            connection.send(TROUBLE[name])
            connection.reset()
            return
        else:
            connection.send(SHOWING.get(name) or TROUBLE.get(name) or ok(b"fine"))


def configuration(endpoints: dict[str, str], upstream: int, log_format: str) -> str:
    """Returns a configuration with a credential and a route for each authorization server, and `/api` for `good`."""
    lines = ["version: 1", "listen: 127.0.0.1:0", "admin: 127.0.0.1:0", f"log: {{format: {log_format}, level: debug}}"]
    lines += ["drain_timeout: 500ms", "credentials:"]
    for name, endpoint in endpoints.items():
        lines.append(f"  {name}: {{token_endpoint: '{endpoint}', client_id: {CLIENT_ID}, client_secret_file: secret,")
        lines.append(
            f"    token_endpoint_auth_method: {'client_secret_post' if name == 'form' else 'client_secret_basic'},"
        )
        lines.append("    required: false, token_request_headers: {X-Key: {value_file: key}}}")
    lines.append("routes:")
    for name in endpoints:
        prefix = "/api" if name == "good" else f"/as/{name}"
        lines.append(f"  - {{name: {name}, match: {{path_prefix: {prefix}}}, upstream: 'http://127.0.0.1:{upstream}',")
        lines.append(
            f"     credential: {name}, set_request_headers: {{X-Team: '{TEAM.text}'}}, timeouts: {{first_byte: 10s}}}}"
        )
    return "\n".join([*lines, ""])


@contextlib.asynccontextmanager
async def setting(folder: Path, log_format: str, *, later: Canary = TOKEN) -> AsyncIterator[ScriptedUpstream]:
    """Runs the authorization servers and the upstream, and writes the configuration; yields the upstream.

    The one good server gives TOKEN first and `later` ever after.
    """
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(api))
        servers = {
            name: await stack.enter_async_context(ScriptedAuthorizationServer(default=reply))
            for name, reply in BAD_REPLIES.items()
        }
        good = ScriptedAuthorizationServer(default=token_reply(later.text))
        good.script.append(token_reply(TOKEN.text, scope=TOKEN.text, refresh_token=RENEWED.text))
        servers["good"] = await stack.enter_async_context(good)
        endpoints = {name: server.url for name, server in servers.items()}
        (folder / "proxy.yaml").write_text(configuration(endpoints, upstream.port, log_format), encoding="utf-8")
        (folder / "secret").write_text(SECRET.text + "\n", encoding="utf-8")
        (folder / "key").write_text(KEY.text + "\n", encoding="utf-8")
        yield upstream


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[program.Serving]:
    """Runs the gateway as a process, whatever the format of its log."""
    process = await program.start("run", "-c", "proxy.yaml", cwd=folder)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        while not (serves := re.search(r'listen[=":]+([\d.:]+\d).*admin[=":]+([\d.:]+\d)', "\n".join(lines))):
            line = (await process.stderr.readline()).decode()
            assert line, "the gateway ended:\n" + "\n".join(lines)
            lines.append(line.rstrip("\n"))
        yield program.Serving(process, serves[1], serves[2], lines)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_t12_a_life_full_of_failures(tmp_path: Path, log_format: str):
    """No log line at any level, metric, status page, problem document or response head shows a token or a secret."""
    said: dict[str, bytes] = {}
    async with setting(tmp_path, log_format, later=RENEWED) as upstream, serving(tmp_path) as gateway:

        async def tell(name: str, octets: bytes) -> None:
            said[f"the answer to {name}"] = await everything(gateway.port, octets)

        await tell("fine", get(b"/api/fine"))
        await asyncio.gather(
            *(tell(f"/as/{name}", get(b"/as/%b" % name.encode())) for name in BAD_REPLIES),
            *(tell(f"a request with a bad {name}", octets) for name, octets in MALFORMED.items()),
        )
        for name in [*TROUBLE, *SHOWING]:
            await tell(f"/api/{name}", get(b"/api/%b?t=%b" % (name.encode(), BEARER)))
        await leave_within_an_upload(gateway.port, upstream)
        said |= await admin_pages(gateway.admin)
        said["the command line"] = Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes()
        async with connected(gateway.port) as hanging:
            await hanging.send(get(b"/api/hang"))
            await upstream.until(lambda: any(b"/api/hang" in received for received in upstream.received))
            ended = await gateway.stop()
            said["the answer to a request cut off"] = await hanging.reader.read()
    said["standard error"], said["standard output"] = ended.err.encode(), ended.out.encode()
    assert 0 == ended.code
    assert [] == traces(CANARIES, said)

    # and each of them was what it was meant to be
    assert said["the answer to fine"].endswith(b"fine")
    for name in SHOWING:
        assert said[f"the answer to /api/{name}"].startswith(b"HTTP/1.1 502"), name
    for name in BAD_REPLIES:
        assert said[f"the answer to /as/{name}"].startswith(b"HTTP/1.1 503"), name
    for name in MALFORMED:
        assert said[f"the answer to a request with a bad {name}"].startswith(b"HTTP/1.1 4"), name
    for token in (TOKEN, RENEWED):
        assert any(token.text.encode() in received for received in upstream.received)
    for word in ("invalid_client", "oauth_error", "server_error", "malformed", "connection_terminated", "draining"):
        assert word in ended.err, word
    assert "debug" in ended.err.lower()


def get(target: bytes) -> bytes:
    return request(b"GET", target, CLOSE)


async def everything(port: int, octets: bytes) -> bytes:
    """Sends octets and returns all that comes back until the connection ends, in whatever way."""
    answer = b""
    async with connected(port) as client:
        with contextlib.suppress(ConnectionError):
            await client.send(octets)
        with contextlib.suppress(ConnectionError):
            while data := await client.reader.read(65_536):
                answer += data
    return answer


async def leave_within_an_upload(port: int, upstream: ScriptedUpstream) -> None:
    async with connected(port) as client:
        await client.send(request(b"POST", b"/api/left", b"Content-Length: 1000") + BEARER)
        await upstream.until(lambda: any(b"/api/left" in received for received in upstream.received))


async def admin_pages(address: str) -> dict[str, bytes]:
    """Returns what the admin listener shows, by path."""
    pages = {}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN.text}"}) as session:
        for accept in ("text/plain", "application/openmetrics-text"):
            async with session.get(f"http://{address}/metrics", headers={"Accept": accept}) as answer:
                pages[f"/metrics as {accept}"] = str(answer.raw_headers).encode() + await answer.read()
        for path in ("/status.json", "/readyz", "/readyz?verbose", "/livez", f"/nowhere?{quote(TOKEN.text)}"):
            async with session.get(f"http://{address}{path}") as answer:
                pages[path.partition("?")[0] + str(len(pages))] = str(answer.raw_headers).encode() + await answer.read()
    assert b"bearer_proxy_token_requests_total" in pages["/metrics as text/plain"]
    return pages


# ---- assertions


async def quoting(connection: ScriptedConnection) -> None:
    """An authorization server that repeats what the client proved itself by, whole and in part."""
    while True:
        form = (await connection.request()).rpartition(b"\r\n\r\n")[2]
        assertion = dict(parse_qsl(form.decode()))["client_assertion"]
        said = f"{assertion[-60:]} of {assertion}" if connection.index % 2 else f"{assertion} is not known"
        body = json.dumps({"error": "invalid_client", "error_description": said[:190]}).encode()
        connection.send(ok(body, b"Content-Type: application/json", status=b"401 Unauthorized"))


@pytest.mark.parametrize(
    ("method", "proof"),
    [
        ("client_secret_jwt", "client_secret_file: secret"),
        ("private_key_jwt", "private_key_file: key.pem"),
        ("private_key_jwt", "client_assertion_file: assertion"),
    ],
)
async def test_an_assertion_that_is_quoted(tmp_path: Path, method: str, proof: str):
    """Neither the gateway nor a command tells the assertion, or the key or secret behind it, to anybody else."""
    (tmp_path / "secret").write_text(SECRET.text, encoding="utf-8")
    (tmp_path / "key.pem").write_text(private_key(), encoding="utf-8")
    until_s = 4_000_000_000
    (tmp_path / "assertion").write_text(jwt({"iss": CLIENT_ID, "jti": SECRET.text, "exp": until_s}), encoding="utf-8")
    said: dict[str, bytes] = {}
    async with ScriptedUpstream(quoting) as server:
        (tmp_path / "proxy.yaml").write_text(
            f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
log: {{format: json, level: debug}}
credentials:
  main:
    token_endpoint: http://127.0.0.1:{server.port}/token
    client_id: {CLIENT_ID}
    token_endpoint_auth_method: {method}
    {proof}
    required: false
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "http://127.0.0.1:1", credential: main}}
""",
            encoding="utf-8",
        )
        async with serving(tmp_path) as gateway:
            said["the answer"] = await everything(gateway.port, get(b"/"))
            said |= await admin_pages(gateway.admin)
            ended = await gateway.stop()
        said["standard error"] = ended.err.encode()
        for command in (("token",), ("check", "--live"), ("call", "/")):
            told = await program.run(command[0], "-c", "proxy.yaml", *command[1:], cwd=tmp_path)
            said[f"{command[0]}: output"], said[f"{command[0]}: errors"] = told.out.encode(), told.err.encode()
        forms = [received.rpartition(b"\r\n\r\n")[2].decode() for received in server.received]
    shown = [
        Canary(f"assertion {number}", dict(parse_qsl(form))["client_assertion"]) for number, form in enumerate(forms)
    ]
    assert 4 == len(shown)
    key = Canary("private key", private_key().split("\n")[1])
    assert [] == traces([*shown, key, *CANARIES], said)
    assert said["the answer"].startswith(b"HTTP/1.1 503")
    assert "invalid_client" in ended.err


# ---- the command line


async def test_t12_commands_that_meet_failures(tmp_path: Path):
    """What an authorization server or an upstream quotes does not come out of `token`, `check`, `call` or `explain`."""
    c = ("-c", "proxy.yaml")
    commands = [
        ("check", *c, "--live"),
        ("token", *c, "good"),
        ("token", *c, "good", "--claims"),
        ("token", *c, "form"),
        ("call", *c, "/api/field"),
        ("call", *c, "/as/basic"),
        ("explain", *c, "GET", "/api/fine?x=y"),
        ("run", *c, "--listen", "unix:/nonexistent/gateway.sock"),
    ]
    async with setting(tmp_path, "json"):
        ended = await asyncio.gather(*(program.run(*command, cwd=tmp_path) for command in commands))
    said = {}
    for command, end in zip(commands, ended, strict=True):
        said[f"output of {' '.join(command)}"], said[f"errors of {' '.join(command)}"] = (
            end.out.encode(),
            end.err.encode(),
        )
    assert [] == traces(CANARIES, said)
    assert [1, 0, 1, 1, 1, 1, 0, 2] == [end.code for end in ended], said
    assert all(f"credential {name}: no token" in ended[0].err for name in BAD_REPLIES)
    assert "502" in ended[4].err
    assert "Authorization: Bearer ***" in ended[6].out


FAULTY = {
    "a wrong key": "client_secrt: {0}",
    "a list": "client_secret: [{0}, {0}, {0}]",
    "a mapping": "client_secret: {{value: {0}}}",
    "twice": "client_secret: {0}\n    client_secret: {0}",
    "an unset name": "client_secret: ${{NOT_SET}}{0}",
    "in the wrong place": "client_secret: fine\n    timeout: {0}",
    "as a scope": "client_secret: fine\n    scopes: {{{0}: x}}",
    "without a space": "client_secret:{1}",
    "without a colon": "client_secret {1}",
    "as a header": "client_secret: fine\n    token_request_headers: {{Authorization: {0}}}",
    "in a reference": "client_secret: ${{CLIENT_SECRET:-{1}",
    "a tag": "client_secret: !!binary {0}",
    "an open quote": "client_secret: {0}\n    audience: 'x",
    "an alias": "client_secret: *{1}",
}


@pytest.mark.parametrize("fault", [pytest.param(text, id=name) for name, text in FAULTY.items()])
def test_t12_a_faulty_configuration(tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]):
    """Every fault is told with its place, and never with the value that stands there."""
    text = f"""\
version: 1
credentials:
  main:
    token_endpoint: https://as.example/token
    client_id: x
    {fault.format(json.dumps(SECRET.text), "q7VtX2mK9rWz")}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: https://api.example, credential: main}}
"""
    (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
    code = cli.main(["check", "--no-env-file", "-c", str(tmp_path / "proxy.yaml")])
    captured = capsys.readouterr()
    assert (2, []) == (code, traces([SECRET], {"output": captured.out.encode(), "errors": captured.err.encode()}))
    assert "proxy.yaml:" in captured.err


# ---- memory, as a debugger or a log of objects would show it


@on_both_loops
async def test_t12_the_repr_of_everything_that_lives(tmp_path: Path):
    """Whatever object of the gateway is written out in a log, a traceback or a debugger shows neither."""
    gc.collect()
    gc.freeze()  # what other tests have left, of a configuration with 10 000 routes for instance, is looked at by nobody
    server = ScriptedAuthorizationServer(default=token_reply(TOKEN.text))
    async with (
        server,
        ScriptedUpstream(api) as upstream,
        in_front_of(upstream.port, tmp_path, server=server, secret=SECRET.text) as gateway,
        connected(gateway.port) as client,
    ):
        await ask(gateway.port, get(b"/field"))
        await client.send(request(b"POST", b"/hang", b"Content-Length: 1000"))
        await upstream.until(lambda: any(b"/hang" in received for received in upstream.received))
        shown = {
            f"{type(thing).__qualname__} {number}": f"{thing!r}\n{thing!s}".encode()
            for number, thing in enumerate(gc.get_objects())
            if str(type(thing).__module__).startswith("proxy.") or isinstance(thing, BaseException | asyncio.Task)
        }
    gc.unfreeze()
    assert {"AccessToken", "Gateway", "Keeper", "Registration", "Forward", "UpstreamConnection", "Task"} <= {
        name.partition(" ")[0] for name in shown
    }
    assert [] == traces(CANARIES, shown)
