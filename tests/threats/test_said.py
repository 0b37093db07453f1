"""T11 to T15: what the gateway says, to clients, to its log and to its metrics, and what an attacker makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import string
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.errors import Problem
from tests.support import program
from tests.support.both_loops import on_both_loops
from tests.support.canaries import Canary, traces
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import running_gateway
from tests.support.raw_client import Answer, ask
from tests.support.scripted_authorization_server import (
    Reply,
    ScriptedAuthorizationServer,
    error_reply,
    token_reply,
)
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, always, answering, ok

# Controls (also C1, which a terminal may obey), separators of lines for some reader or other, what reorders or hides text.
TROUBLE = "\r\n\t\x00\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u200f\u200b\ufeff\u00ad"
FORGED = '{"level":"error","message":"forged"}'


# ---- T11: error pages


@on_both_loops
async def test_t11_error_pages(tmp_path: Path):
    """Fixed words and a request id, in at most 512 octets: no name, path, version, or words of whoever failed."""
    said: list[Answer] = []

    async def tell(upstream: int | str, *, server: ScriptedAuthorizationServer | None = None, route: str = "") -> None:
        async with in_front_of(upstream, tmp_path, server=server, route=route, credential="required: false") as gateway:
            said.append(await ask(gateway.port, request(b"GET", b"/private/path?secret=word")))

    async with ScriptedUpstream(always(b"HTTP/1.1 200 Private\r\nX: \x01private words\r\n\r\n")) as upstream:
        await tell(upstream.port)
        await tell(f"https://127.0.0.1:{upstream.port}", route="timeouts: {connect: 200ms}\nretries: {connect: 0}")
        async with ScriptedAuthorizationServer(default=error_reply("private_words")) as denying:
            await tell(upstream.port, server=denying)
        await tell(upstream.port, server=denying)  # it is down
    await tell(upstream.port, route="retries: {connect: 0}")
    await tell("https://private.invalid", route="retries: {connect: 0}")
    async with ScriptedUpstream(answering()) as silent, in_front_of(silent.port, tmp_path) as gateway:
        for octets in (
            request(b"GET", b"/private/../path"),
            request(b"PRIVATE", b"/private"),
            request(b"GET", b"/", b"Expect: private"),
            request(b"GET", b"/", b"Private words"),
            request(b"GET").replace(b"localhost", b"private.example"),
            b"private words\r\n\r\n",
        ):
            said.append(await ask(gateway.port, octets))

    titles = {(problem.status, problem.title) for problem in Problem}
    for answer in said:
        document = json.loads(answer.body)
        assert {"type", "title", "status", "request_id"} == set(document)
        assert (answer.status, document["title"]) in titles
        assert re.fullmatch("[0-9a-f]{32}", document["request_id"])
        assert 512 >= len(answer.body)
        shown = (answer.head + answer.body).lower()
        for word in (b"private", b"word", b"errno", b"aiohttp", b"python", b"127.0.0.1", b"\nserver:", b"traceback"):
            assert word not in shown
    assert {400, 421, 501, 502, 503, 504, 417} >= {answer.status for answer in said} > {400, 502, 503}


# ---- T12: see also tests/gateway/test_leaks.py, where a gateway lives through many failures


SECRET = Canary("client secret", "qV7tX2mK9rWz.u5NbY8cLd3FhJ")
ENV = {"CLIENT_SECRET": SECRET.text}
TOKEN = Canary("access token", "Zk4Qw8eR6tY.uI2oPaS9dFgH1jKlX3cV")


def configuration(upstream: int, endpoint: str, log: str, *, credentials: int = 1) -> str:
    """Returns a configuration with routes `/0`, `/1`, …, each with a credential of its own."""
    lines = ["version: 1", "listen: 127.0.0.1:0", "admin: 127.0.0.1:0", f"log: {{{log}}}", "credentials:"]
    for number in range(credentials):
        lines.append(f"  c{number}: {{token_endpoint: '{endpoint}', client_id: id-{number}, required: false,")
        lines.append("      client_secret: '${CLIENT_SECRET}', scopes: [asked]}")
    lines.append("routes:")
    for number in range(credentials):
        lines.append(f"  - {{name: r{number}, match: {{path_prefix: /{number}}}, credential: c{number},")
        lines.append(f"     upstream: 'http://127.0.0.1:{upstream}', retries: {{connect: 0}}}}")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_t12_a_process_that_tells_all_it_can(tmp_path: Path, loop: str):
    """Every debugging aid of the interpreter is on, and then it crashes: neither token nor secret is told."""
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError", encoding="utf-8")
    aids = {
        "PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1", "PYTHONWARNINGS": "always",
    }  # fmt: skip
    bearer = TOKEN.text.encode()
    stray = ok(b"") + bearer
    async with (
        AsyncExitStack() as stack,
        ScriptedUpstream(answering(ok(b"fine")), answering(stray), answering()) as upstream,
        ScriptedAuthorizationServer(default=token_reply(TOKEN.text)) as server,
    ):
        text = configuration(upstream.port, server.url, "level: debug, format: json")
        (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
        gateway = await stack.enter_async_context(program.serving("-c", "proxy.yaml", cwd=tmp_path, env=ENV | aids))
        close = b"Connection: close"
        for _ in range(2):
            assert (
                200
                == (await ask(gateway.port, request(b"GET", b"/0", close, b"Authorization: Bearer " + bearer))).status
            )
            upstream.connections[-1].close()
        assert 400 == (await ask(gateway.port, b"GET / " + bearer + b"\r\n\r\n")).status
        async with connected(gateway.port) as left, connected(gateway.port) as hanging:
            await left.send(request(b"POST", b"/0/left", b"Content-Length: 1000") + bearer)
            await hanging.send(request(b"GET", b"/0/hang"))
            await upstream.until(lambda: any(b"/0/hang" in received for received in upstream.received))
            left.writer.transport.abort()
            ended = await gateway.stop(6)  # SIGABRT
    assert -6 == ended.code
    assert "Fatal Python error" in ended.err
    assert ("uvloop" in ended.err) == (loop == "uvloop")
    assert [] == traces([SECRET, TOKEN], {"standard error": ended.err.encode(), "standard output": ended.out.encode()})


# ---- T13: lines of a log that somebody else wrote


BEARING = [
    request(b"GET", b"/0/%0d%0a" + FORGED.replace(" ", "").encode().replace(b'"', b"%22")),
    request(b"GET", b"/0/%1b[2J"),
    request(b"GET", b"/0/%e2%80%a8%c2%85%e2%80%ae"),
    request(b"GET", b"/0/\"level=error\"|message=forged'"),
    request(b"GET", b"/0?%0a" + b"x" * 2000 + b"=1"),
    request(b"GET", b"/0/\x1b[31mforged"),
    request(b"GET", b"/0/\rforged"),
    request(b"GET", b"/0/\nforged"),
    request(b"GET", "/api/\u2028forged".encode()),
    request(b"GET", b"/0", b"X-Request-Id: " + FORGED.encode()),
    request(b"GET", b"/0", b'X-Request-Id: x"level=error"message=forged'),
    request(b"GET", b"/0", b"X-Request-Id: x\x1b[31m"),
    request(b"GET", b"/0", b"X-Request-Id: " + "\u2028\u0085forged".encode()),
    request(b"GET", b"/0", b"User-Agent: " + "\u2028\u0085\u202eforged".encode()),
    request(b"GET", b"/0", b"User-Agent: \x1b]0;forged\x07"),
    request(b"GET", b"/0").replace(b"localhost", b"forged.example\x1b[31m"),
    request(b"GET", b"/0").replace(b"localhost", b"f'level=error.example"),
    request(b"GET", b"/0").replace(b"localhost", "forged.example\u2028".encode()),
    request(b"F'ORGED", b"/0"),
    request(b"\x1bFORGED", b"/0"),
    b"GET /0 HTTP/1.1\r\nHost: localhost\r\nX: a\n" + FORGED.encode() + b"\n\r\n\r\n",
    b"\x1b[31mforged\r\n\r\n",
]  # fmt: skip
ANSWERS = {
    b"reason": b"HTTP/1.1 418 " + "\u2028\u0085\u202eforged".encode() + b"\r\nContent-Length: 0\r\n\r\n",
    b"escape": b"HTTP/1.1 200 \x1b[31mforged\r\nContent-Length: 0\r\n\r\n",
    b"c1": b"HTTP/1.1 200 \x85\x9b31mforged\r\nContent-Length: 0\r\n\r\n",
    b"line": b"HTTP/1.1 200 OK\r\nX: a\rforged\r\nContent-Length: 0\r\n\r\n",
    b"length": b"HTTP/1.1 200 OK\r\nContent-Length: forged\x1b[31m\r\n\r\n",
    b"coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: forged\xe2\x80\xa8\r\n\r\n",
    b"chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31mforged\r\n",
    b"none": "forged\u2028\x1b[31m\n".encode() * 20,
}
REPLIES = [
    error_reply("invalid_client", 401, error_description=f"wrong{TROUBLE}{FORGED}"),
    error_reply(f"forged{TROUBLE}"),
    Reply(raw=f"HTTP/1.1 500 forged\x1b[31m{FORGED}\r\n\r\n{TROUBLE}".encode()),
    Reply(body=f"<pre>{TROUBLE}{FORGED}".encode(), fields=(("Content-Type", "text/html\x85"),)),
    Reply(status=429, fields=(("Retry-After", "1;\u0085forged"),), body=b"{}"),
    token_reply("a b\r\nforged: x"),
    token_reply(token_type=f"forged{TROUBLE}"),
    token_reply(expires_in=f"forged{TROUBLE}"),
    token_reply(scope=f"forged{TROUBLE}"),
]  # fmt: skip


LINE = {
    "json": re.compile(r'\{"ts":"[-0-9T:.]+Z","level":"[a-z]+","logger":"proxy\.[a-z.]+","message":"[ -~]+\}'),
    "text": re.compile(r"[0-9:.]{12} (DEBUG|INFO|WARNING|ERROR) [a-z]\S+( |$).*"),
}


async def odd(connection: ScriptedConnection) -> None:
    """The upstream: answers as the path's last part says."""
    while True:
        asked = await connection.request()
        connection.send(ANSWERS.get(asked.split(b" ")[1].rpartition(b"/")[2], ok()))


@pytest.mark.parametrize("style", ["json", "text"])
async def test_t13_what_others_write_stays_within_its_value(tmp_path: Path, style: str):
    """A path, a name, a reason phrase, an authorization server's words: one record is one line, of printable characters."""
    server = ScriptedAuthorizationServer()
    server.script.extend(REPLIES)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(odd))
        await stack.enter_async_context(server)
        count = len(REPLIES) + 1
        text = configuration(upstream.port, server.url, f"level: debug, format: {style}", credentials=count)
        (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
        gateway = await stack.enter_async_context(program.serving("-c", "proxy.yaml", cwd=tmp_path, env=ENV))
        for number in reversed(range(count)):  # `/0` comes last, with the one good token
            await ask(gateway.port, request(b"GET", b"/%d" % number))
        for octets in BEARING + [request(b"GET", b"/0/" + name) for name in ANSWERS]:
            async with connected(gateway.port) as client:
                await client.send(octets.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                with contextlib.suppress(ConnectionError):
                    await client.reader.read()
        ended = await gateway.stop()

    lines = ended.err.strip("\n").split("\n")
    assert lines == ended.err.splitlines()
    assert [] == [line for line in lines[1:] if LINE[style].fullmatch(line) is None]
    assert not set(ended.err) & set(TROUBLE) - {"\n"}
    assert count + len(BEARING) + len(ANSWERS) == sum("request_id" in line for line in lines)
    assert ended.err.count("forged") > 3  # some of it is told, within its value
    assert '"level":"error"' not in ended.err
    assert " ERROR " not in ended.err


async def test_t13_a_reason_phrase_on_a_terminal(tmp_path: Path):
    """`call` shows it, and it drives nothing."""
    async with ScriptedUpstream(always(ANSWERS[b"c1"])) as upstream, ScriptedAuthorizationServer() as server:
        text = configuration(upstream.port, server.url, "level: info")
        (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
        ended = await program.run("call", "-c", "proxy.yaml", "/0", cwd=tmp_path, env=ENV)
    assert "HTTP/1.1 200 \\x85\\x9b31mforged" in ended.err
    assert not set(ended.err) & set(TROUBLE) - {"\n"}


async def test_t13_a_flood_of_refusals(tmp_path: Path):
    """Thousands write tens of lines; what is served meanwhile is logged, and the metrics count everything."""
    async with (
        ScriptedUpstream(always(ok())) as upstream,
        ScriptedAuthorizationServer() as server,
        AsyncExitStack() as stack,
    ):
        (tmp_path / "proxy.yaml").write_text(
            configuration(upstream.port, server.url, "level: debug, format: json"), encoding="utf-8"
        )
        gateway = await stack.enter_async_context(program.serving("-c", "proxy.yaml", cwd=tmp_path, env=ENV))

        async def flood(octets: bytes) -> None:
            for _ in range(100):
                async with connected(gateway.port) as client:
                    await client.send(octets)
                    with contextlib.suppress(ConnectionError):
                        await client.reader.read(64)

        kinds = [b"x\r\n\r\n", request(b"GET", b"/nowhere"), request(b"GET").replace(b"localhost", b"evil.example")]
        await asyncio.gather(*(flood(octets) for octets in kinds * 5))
        assert 200 == (await ask(gateway.port, request(b"GET", b"/0"))).status
        admin = int(gateway.admin.rpartition(":")[2])
        metrics = (await ask(admin, request(b"GET", b"/metrics").replace(b"localhost", b"localhost:%d" % admin))).body
        ended = await gateway.stop()
    records = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    refused = [record for record in records if record["message"] == "request" and record["status"] >= 400]
    took_s = 60  # a line a second and kind, on a machine as slow as that
    assert 3 * 20 <= len(refused) <= 3 * (20 + took_s)
    assert 1 == sum(record.get("status") == 200 for record in records)
    for reason in (b"bad-request", b"no-route", b"host-not-allowed"):
        counted = re.search(rb'(?m)^bearer_proxy_requests_refused_total\{reason="%b"\} ([0-9.]+)' % reason, metrics)
        assert counted is not None
        assert 500 <= float(counted[1])


# ---- T14: names that clients choose, as labels


REQUESTS = "bearer_proxy_http_requests_total"


async def test_t14_5000_random_requests_add_no_series(tmp_path: Path):
    """Paths, hosts, methods, fields, versions: whatever they are, all were counted under names that were there before."""
    chance = random.Random(14)

    def word(octets: int = 8) -> bytes:
        return "".join(chance.choices(string.ascii_letters, k=octets)).encode()

    def one() -> bytes:
        kind = chance.randrange(8)
        if kind == 0:
            return request(word(), b"/")
        if kind == 1:
            return request(b"GET", b"/" + word()).replace(b"localhost", word() + b".example")
        if kind == 2:
            return request(b"GET", b"/%b HTTP/7.%d\r\nX: y\r\n\r\n" % (word(), chance.randrange(9)))
        if kind == 3:
            return word() + b"\r\n\r\n"
        method = chance.choice([b"GET", b"POST", b"PATCH", b"PROPFIND", b"HEAD"])
        return request(method, b"/" + word() + b"?" + word(), word() + b": " + word())

    async def send(port: int, count: int) -> None:
        for _ in range(count):
            octets = one()
            answered.append((await ask(port, octets)).status)

    answered: list[int] = []
    async with ScriptedUpstream() as upstream, ScriptedAuthorizationServer() as server:
        text = f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  main: {{token_endpoint: "{server.url}", client_id: a, client_secret: b, required: false}}
routes:
  - {{name: orders, match: {{path_prefix: /orders}}, upstream: "http://127.0.0.1:{upstream.port}", credential: main}}
"""
        async with running_gateway(text, tmp_path) as gateway:
            await send(gateway.port, 200)
            before = set(await gateway.samples())
            await asyncio.gather(*(send(gateway.port, 500) for _ in range(10)))
            assert before == set(await gateway.samples())
            counted = sum(value for (name, _), value in (await gateway.samples()).items() if name == REQUESTS)
            assert len(answered) == counted == 5200
            assert {400, 404, 421, 501, 505} == set(answered)
            for name, labels in before:
                if name == REQUESTS:
                    assert dict(labels)["method"] in {"GET", "POST", "PATCH", "PROPFIND", "HEAD", "other"}


# ---- T15: what the admin listener shows, to whom


@on_both_loops
async def test_t15_the_admin_listener_is_another_one(tmp_path: Path):
    """Its paths are ordinary ones on the proxy's port; it answers to its own address only, and shows no piece of a token."""
    canary = Canary("access token", TOKEN.text)
    paths = (b"/metrics", b"/status.json", b"/livez", b"/readyz", b"/status")
    server = ScriptedAuthorizationServer(default=token_reply(TOKEN.text))
    async with (
        server,
        ScriptedUpstream(always(ok(b"the upstream's"))) as upstream,
        in_front_of(upstream.port, tmp_path, server=server, secret=SECRET.text) as gateway,
    ):
        for path in paths:
            assert b"the upstream's" == (await ask(gateway.port, request(b"GET", path))).body
        host, _, port = gateway.admin_url.removeprefix("http://").rpartition(":")
        assert "127.0.0.1" == host
        said = {}
        for path in (*paths, b"/orders", b"/"):
            good = request(b"GET", path).replace(b"localhost", b"localhost:" + port.encode())
            answer = await ask(int(port), good)
            said[path.decode()] = answer.head + answer.body
            for name in (
                b"evil.example",
                b"evil.example:%d" % int(port),
                b"localhost.evil.example",
            ):
                foreign = request(b"GET", path).replace(b"localhost", name)
                assert 421 == (await ask(int(port), foreign)).status
        assert b"main" in said["/status.json"]
        assert [] == traces([canary, SECRET], said)
        assert len(paths) == sum(len(connection.requests) for connection in upstream.connections)
