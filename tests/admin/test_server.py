"""The admin listener over real sockets: what it answers, to whom, and what it never does."""

from __future__ import annotations

import asyncio
import io
import json
import random
import socket
import stat
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import log
from proxy.admin import AdminServer
from proxy.admin import connection as connection_module
from proxy.admin.exposition import Exposition
from proxy.errors import ConfigurationError
from proxy.probe import probe
from proxy.routing import RouteName
from proxy.tasks import Tasks
from tests.admin.facts import FRESH, ORDERS, WITHOUT_TOKEN, Facts

CANARY = "c4n4ry-s3cr3t"


@dataclass(frozen=True)
class Tcp:
    host: str = "127.0.0.1"
    port: int = 0


@dataclass(frozen=True)
class Unix:
    path: Path


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes
    octets: bytes


@asynccontextmanager
async def serving(facts=None, address=None):
    server = AdminServer(address or Tcp(), (facts or Facts()).admin_facts())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def exchange(server, octets, *, host="127.0.0.1"):
    """Sends these octets and reads until the server closes."""
    reader, writer = await asyncio.open_connection(host, server.port)
    try:
        writer.write(octets)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


async def ask(server, path="/livez", *, method="GET", host=None, fields=(), body=b"", via="127.0.0.1"):
    """Makes one request under the listener's own name, or another."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{server.port}'}", *fields, "", ""]
    return parsed(await exchange(server, "\r\n".join(lines).encode("utf-8", "surrogateescape") + body, host=via))


def parsed(octets):
    head, _, body = octets.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("ascii").split("\r\n")
    fields = [line.split(": ", 1) for line in lines]
    assert len({name.lower() for name, _ in fields}) == len(fields)
    return Answer(int(status_line.split()[1]), {name.lower(): value for name, value in fields}, body, octets)


# ---- the pages


async def test_livez():
    """200 while the loop answers, whatever else is wrong."""
    async with serving(Facts(tokens=[WITHOUT_TOKEN], draining=True)) as server:
        answer = await ask(server, "/livez")
    assert (answer.status, answer.body) == (200, b"live\n")


async def test_readyz():
    """503 until every required credential had its first token, 200 from then on, 503 while draining."""
    facts = Facts(tokens=[WITHOUT_TOKEN])
    async with serving(facts) as server:
        waiting = await ask(server, "/readyz")
        facts.tokens = [FRESH]
        ready = await ask(server, "/readyz")
        facts.draining = True
        draining = await ask(server, "/readyz")
    assert (waiting.status, waiting.body) == (503, b"not ready\n")
    assert (ready.status, ready.body) == (200, b"ready\n")
    assert (draining.status, draining.body) == (503, b"not ready\n")


@pytest.mark.parametrize("query", ["verbose", "verbose=1", "a=b&verbose"])
async def test_readyz_verbose(query):
    """It lists each check."""
    async with serving() as server:
        answer = await ask(server, f"/readyz?{query}")
    assert answer.body.decode() == (
        "[+] serving: accepting requests\n[+] credential orders: had its first token\nready\n"
    )


async def test_metrics():
    """Prometheus's text, of the state at this moment."""
    facts = Facts()
    async with serving(facts) as server:
        facts.metrics.route("orders").count_request(b"GET", 200)
        answer = await ask(server, "/metrics")
    assert answer.status == 200
    assert answer.fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert families["bearer_proxy_http_requests"].samples[0].value == 1


async def test_openmetrics():
    """By the Accept field; what it holds is not repeated."""
    async with serving() as server:
        fields = ["Accept: text/html;q=0.1", f"Accept: application/openmetrics-text;version=1.0.0;escaping={CANARY}"]
        answer = await ask(server, "/metrics", fields=fields)
    assert answer.fields["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert CANARY.encode() not in answer.octets


async def test_status():
    """JSON with routes and credentials."""
    async with serving() as server:
        answer = await ask(server, "/status.json")
    document = json.loads(answer.body)
    assert (answer.status, answer.fields["content-type"]) == (200, "application/json")
    assert document["credentials"][0]["state"] == "fresh"
    assert document["uptime_s"] >= 0


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/livez/x", "//livez", "/LIVEZ", "/%6civez", "/status", "/favicon.ico"]
)
async def test_another_path(path):
    """404."""
    async with serving() as server:
        assert (await ask(server, path)).status == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/status.json", "/none"])
async def test_head(path):
    """What GET would answer, without the body."""
    async with serving() as server:
        got, asked = await ask(server, path), await ask(server, path, method="HEAD")
    assert asked.body == b""
    assert asked.status == got.status
    assert set(asked.fields) == set(got.fields)
    assert int(asked.fields["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_another_method(method):
    """405 with Allow, on every path; a body it brings does not lose the answer."""
    async with serving() as server:
        answer = await ask(server, method=method, fields=["Content-Length: 5"], body=b"hello")
    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz?verbose", "/metrics", "/status.json", f"/{CANARY}", f"/livez?{CANARY}={CANARY}"]
)
async def test_every_answer(path):
    """Not stored, not sniffed, no word of what serves it, nothing of the request; the connection closes."""
    async with serving() as server:
        fields = [
            f"User-Agent: {CANARY}",
            f"X-Request-Id: {CANARY}",
            f"Authorization: Bearer {CANARY}",
            "Origin: http://x",
        ]
        answer = await ask(server, path, fields=fields)
    assert answer.fields["cache-control"] == "no-store"
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert answer.fields["connection"] == "close"
    assert set(answer.fields) == {
        "date", "content-type", "content-length", "cache-control", "x-content-type-options", "connection",
    }  # fmt: skip
    assert CANARY.encode() not in answer.octets
    assert b"aiohttp" not in answer.octets


# ---- Host


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "LocalHost:{port}"])
async def test_its_own_host(host):
    """Loopback by all its names, with its port."""
    async with serving() as server:
        assert (await ask(server, host=host.format(port=server.port))).status == 200


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}"])
@pytest.mark.parametrize("path", ["/livez", "/metrics", "/status.json", "/none"])
async def test_a_foreign_host(host, path):
    """421, on every path: a page whose name was bound anew to this address reads nothing."""
    async with serving() as server:
        answer = await ask(server, path, host=host.format(port=server.port))
    assert answer.status == 421
    assert b"evil" not in answer.octets


@pytest.mark.parametrize(("allowed", "status"), [((b"metrics.example",), 200), ((b"*",), 200), ((b"other",), 421)])
async def test_a_configured_host(allowed, status):
    """It passes, whatever its port."""
    async with serving(Facts(allowed_hosts=allowed)) as server:
        assert (await ask(server, host="metrics.example:1")).status == status


async def test_bound_to_every_address():
    """The address that the connection came in on is the listener's own."""
    async with serving(address=Tcp("0.0.0.0")) as server:
        own = await ask(server, host=f"127.0.0.2:{server.port}", via="127.0.0.2")
        other = await ask(server, host=f"10.9.8.7:{server.port}", via="127.0.0.2")
    assert (own.status, other.status) == (200, 421)


async def test_ipv6():
    """It is served by its bracketed name."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with serving(address=Tcp("::1")) as server:
        answer = await ask(server, host=f"[::1]:{server.port}", via="::1")
        assert server.address == f"[::1]:{server.port}"
    assert answer.status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost:1\r\nHost: localhost:1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: user@localhost:1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nbad field\r\n\r\n",
        b"GET /c4n4ry-s3cr3t\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"c4n4ry-s3cr3t /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03c4n4ry-s3cr3t\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X%d: c4n4ry-s3cr3t\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
async def test_a_malformed_request(head):
    """400 in fixed words, and nothing of it in the log."""
    stream = io.StringIO()
    handle = log.configure("json", "debug", stream)
    try:
        async with serving(Facts(allowed_hosts=(b"*",))) as server:
            answer = parsed(await exchange(server, head))
    finally:
        handle.detach()
    assert (answer.status, answer.body) == (400, b"bad request\n")
    assert "server" not in answer.fields
    assert CANARY not in stream.getvalue() + answer.octets.decode("latin-1")
    assert "Traceback" not in stream.getvalue()


async def test_http_1_0():
    """Without a Host it passes: no browser speaks it."""
    async with serving() as server:
        assert parsed(await exchange(server, b"GET /livez HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.parametrize(
    "fields", [["Connection: keep-alive"], ["Connection: Upgrade", "Upgrade: websocket"], ["Expect: 100-continue"]]
)
async def test_what_it_does_not_do(fields):
    """No second request on a connection, no upgrade, no interim answer."""
    async with serving() as server:
        answer = await ask(server, fields=fields)
    assert (answer.status, answer.fields["connection"]) == (200, "close")


async def test_a_pipeline():
    """Only the first request is answered."""
    async with serving() as server:
        request = f"GET /livez HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode()
        octets = await exchange(server, request * 3)
    assert octets.count(b"HTTP/1.1 200") == 1


# ---- failures, limits


async def test_a_failure_within(monkeypatch):
    """500 in fixed words; the log has its type and frames, neither its text nor a traceback."""

    async def failing(self, accept):
        raise RuntimeError(CANARY)

    monkeypatch.setattr(Exposition, "render", failing)
    stream = io.StringIO()
    handle = log.configure("json", "debug", stream)
    try:
        async with serving() as server:
            answer = await ask(server, "/metrics")
            assert (await ask(server)).status == 200
    finally:
        handle.detach()
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (answer.status, answer.body) == (500, b"internal server error\n")
    assert (line["message"], line["exception"]) == ("an admin request failed", "RuntimeError")
    assert CANARY not in stream.getvalue() + answer.octets.decode()


@pytest.mark.parametrize("octets", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_head_that_does_not_come(monkeypatch, octets):
    """The connection ends with its life, however much of a head there is."""
    monkeypatch.setattr(connection_module, "LIFE_S", 0.2)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(octets)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_client_that_does_not_read(monkeypatch):
    """Its connection ends with its life, and gives its place back."""
    monkeypatch.setattr(connection_module, "LIFE_S", 0.5)
    facts = Facts(routes=[replace(ORDERS, name=RouteName(f"route{number}")) for number in range(2000)])
    async with serving(facts) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
            async with asyncio.timeout(30):
                while not server.open_connections:
                    await turn()
                while server.open_connections:
                    await turn()


async def turn():
    """Lets the event loop go round once."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def test_silent_connections_do_not_lock_anybody_out(monkeypatch):
    """However many are opened and say nothing, or half of something, the next one is answered at once."""
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 3)
    async with serving() as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        for _, writer in silent[-3:]:
            writer.write(b"GET /livez HT")
        async with asyncio.timeout(10):
            while server.open_connections < 3:
                await turn()
            assert [200] * 3 == [(await ask(server)).status for _ in range(3)]
            assert server.open_connections <= 3
            assert await silent[0][0].read() == b""  # the oldest had to go
        for _, writer in silent:
            writer.close()


async def test_clients_that_ask_and_do_not_read(monkeypatch):
    """They lock nobody out for longer than a scraper waits: one that did not take its answer in time makes room."""
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connection_module, "UNREAD_S", 0.3)
    facts = Facts(routes=[replace(ORDERS, name=RouteName(f"route{number}")) for number in range(2000)])
    async with serving(facts) as server:
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", server.port))
                client.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
            answered = False
            async with asyncio.timeout(10):  # half of a connection's life
                while server.open_connections < 3:
                    await turn()
                while not answered:
                    with suppress(ConnectionError, IndexError):  # IndexError: closed without an answer
                        answered = (await ask(server)).status == 200


async def test_too_many_connections(monkeypatch):
    """Beyond the limit, while each of them has asked something, one is closed at once; a place given back serves again."""
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 3)
    held = asyncio.Event()
    waits: list[object] = []
    tasks = Tasks()

    async def waiting(self, accept):
        waits.append(accept)
        await held.wait()
        return b"", "text/plain"

    monkeypatch.setattr(Exposition, "render", waiting)
    async with serving() as server:
        asking = [tasks.start(ask(server, "/metrics"), name="scrape") for _ in range(3)]
        async with asyncio.timeout(10):
            while len(waits) < 3:
                await turn()
        try:
            refused = await exchange(server, b"GET /livez HTTP/1.1\r\n\r\n")
        except ConnectionError:
            refused = b""
        assert refused == b""
        held.set()
        assert [200] * 3 == [answer.status for answer in await asyncio.gather(*asking)]
        assert (await ask(server)).status == 200


async def test_many_clients():
    """All are answered, and none is left over."""
    async with serving() as server:
        answers = await asyncio.gather(*(ask(server, path) for path in ["/livez", "/metrics", "/status.json"] * 15))
        assert {answer.status for answer in answers} == {200}
        async with asyncio.timeout(10):
            while server.open_connections:
                await turn()


async def test_thousands_of_random_requests():
    """Paths, hosts and methods of a client's choice add no series, and nothing of them shows."""
    chance = random.Random(3)
    async with serving() as server:
        before = series(await ask(server, "/metrics"))
        for _ in range(200):
            text = "".join(chance.choices("abcXYZ%./?&=-", k=12))
            await ask(
                server,
                f"/{text}",
                method=chance.choice(["GET", "POST", "REPORT"]),
                host=f"{text[:3].strip('%./?&=-')}x",
            )
        assert series(await ask(server, "/metrics")) == before


def series(answer):
    return {line.rpartition(" ")[0] for line in answer.body.decode().splitlines() if line.startswith("bearer_proxy_")}


# ---- listening


async def test_a_unix_socket(tmp_path):
    """Its owner's alone; any Host; gone after the stop."""
    path = tmp_path / "admin.sock"
    async with serving(address=Unix(path)) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (server.address, server.port) == (f"unix:{path}", None)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: whatever\r\n\r\n")
        answer = parsed(await reader.read())
        writer.close()
    assert answer.status == 200
    assert not path.exists()


def test_uvloop():
    """Its transports are not asyncio's by class; they are served all the same."""
    uvloop = pytest.importorskip("uvloop")

    async def asked():
        async with serving(address=Tcp()) as server:
            answers = await asyncio.gather(*(ask(server, host=f"localhost:{server.port}") for _ in range(20)))
            async with asyncio.timeout(10):
                while server.open_connections:
                    await turn()
            return {answer.status for answer in answers}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asked()) == {200}


async def test_an_address_in_use():
    """A configuration error that names it."""
    async with serving() as server:
        with pytest.raises(
            ConfigurationError, match=rf"admin 127\.0\.0\.1:{server.port}: the address is already in use"
        ):
            await AdminServer(Tcp(port=server.port), Facts().admin_facts()).start()


async def test_an_address_of_another_machine():
    """A configuration error that names it."""
    with pytest.raises(ConfigurationError, match=r"admin 192\.0\.2\.1:0: "):
        await AdminServer(Tcp("192.0.2.1"), Facts().admin_facts()).start()


async def test_stopping():
    """The port is free, open connections are closed; a second time does nothing."""
    server = AdminServer(Tcp(), Facts().admin_facts())
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await ask(server)
    await server.stop()
    await server.stop()
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await ask(server)


async def test_stopping_with_a_client_that_does_not_read(monkeypatch):
    """It is not waited for."""
    monkeypatch.setattr(connection_module, "END_S", 0.1)
    facts = Facts(routes=[replace(ORDERS, name=RouteName(f"route{number}")) for number in range(500)])
    server = AdminServer(Tcp(), facts.admin_facts())
    await server.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            while not server.open_connections:
                await turn()
            await ask(server)
            await server.stop()
            while server.open_connections:
                await turn()


async def test_the_probe():
    """It understands what this listener answers."""
    facts = Facts(tokens=[WITHOUT_TOKEN])
    async with serving(facts) as server:

        def asked(**options):
            return asyncio.to_thread(probe, server.address, **options)

        assert await asked() == (True, "live")
        assert await asked(ready=True) == (
            False,
            "not ready: 503 [+] serving: accepting requests; [-] credential orders: waits for its first token; not ready",
        )
        facts.tokens = [FRESH]
        assert await asked(ready=True) == (True, "ready")
