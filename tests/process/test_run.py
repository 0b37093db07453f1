"""`bearer-proxy run` as a process: start, refusal to start, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from proxy.tasks import Tasks
from proxy.units import KIB, MIB
from tests.support import program
from tests.support.fake_clock import until
from tests.support.fronting import connected, request
from tests.support.gateway import simple_configuration
from tests.support.raw_client import RawClient, ask
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer, token_reply
from tests.support.scripted_upstream import ScriptedConnection, ScriptedUpstream, ok

GET_ORDERS = b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANY_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@pytest.fixture
async def servers() -> AsyncIterator[DemoServers]:
    async with DemoServers(clock=SystemClock()) as running:
        yield running


async def test_the_environment_alone_is_enough(servers: DemoServers, tmp_path: Path):
    """Four variables make a gateway; it says first where its configuration comes from, and SIGTERM ends it with 0."""
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        assert gateway.lines[0].startswith("configuration: environment variables")
        assert 200 == (await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")).status
        ended = await gateway.stop()
    assert (0, "") == (ended.code, ended.out)
    assert servers.settings()["CLIENT_SECRET"] not in ended.err


async def test_an_env_file_is_enough(servers: DemoServers, tmp_path: Path):
    """The same variables in ./.env; the real environment wins; --no-env-file switches it off."""
    lines = [f"{name}={value}" for name, value in servers.settings().items()]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    async with program.serving(*ANY_PORTS, cwd=tmp_path) as gateway:
        assert 200 == (await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")).status
        assert 0 == (await gateway.stop()).code

    ended = await program.run("run", *ANY_PORTS, "--no-env-file", cwd=tmp_path)
    assert 2 == ended.code
    assert "TOKEN_URL" in ended.err


async def test_sigint_ends_it_as_well(servers: DemoServers, tmp_path: Path):
    """Ctrl-C is an ordinary end."""
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        assert 0 == (await gateway.stop(signal.SIGINT)).code


async def test_a_reachable_address_needs_both_lists(servers: DemoServers, tmp_path: Path):
    """On a non-loopback address it refuses to start and names what is missing; with both lists it starts."""
    everywhere = ("--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0")
    for partly in ({}, {"BEARER_PROXY_ALLOWED_CLIENTS": "10.0.0.0/8"}, {"BEARER_PROXY_ALLOWED_HOSTS": "api"}):
        ended = await program.run("run", *everywhere, cwd=tmp_path, env=servers.settings() | partly)
        assert 2 == ended.code
        assert "BEARER_PROXY_ALLOWED_CLIENTS" in ended.err
        assert "BEARER_PROXY_ALLOWED_HOSTS" in ended.err

    lists = {"BEARER_PROXY_ALLOWED_CLIENTS": "127.0.0.1", "BEARER_PROXY_ALLOWED_HOSTS": "gateway.example"}
    async with program.serving(*everywhere, cwd=tmp_path, env=servers.settings() | lists) as gateway:
        assert 200 == (await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: gateway.example\r\n\r\n")).status
        assert 421 == (await ask(gateway.port, b"GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")).status


async def test_an_address_in_use_is_named(servers: DemoServers, tmp_path: Path):
    """Exit code 2 and the address, not a traceback."""
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        ended = await program.run(
            "run", "--listen", gateway.listen, "--admin", "off", cwd=tmp_path, env=servers.settings()
        )
    assert 2 == ended.code
    assert gateway.listen in ended.err
    assert "Traceback" not in ended.err


async def test_sigterm_lets_a_request_finish(servers: DemoServers, tmp_path: Path):
    """A request under way gets its answer, and its connection closes; nothing new is accepted."""
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        client = await RawClient.connect(gateway.port)
        await client.send(b"GET /slow?seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await servers.protected_api.until_requests(1)
        ending = Tasks().start(gateway.stop(), name="stop")
        answer = await client.answer()
        assert (200, b"close") == (answer.status, answer.field(b"Connection"))
        assert await client.closed()
        await client.close()
        assert 0 == (await ending).code


async def test_shutdown_delay(servers: DemoServers, tmp_path: Path):
    """After SIGTERM it is not ready, and still serves who comes; a second SIGTERM ends the waiting."""
    settings = servers.settings()
    (tmp_path / "proxy.yaml").write_text(
        f"""\
version: 1
shutdown_delay: 5m
credentials:
  main: {{token_endpoint: "{settings["TOKEN_URL"]}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}
routes:
  - {{name: all, match: {{path_prefix: /}}, upstream: "{settings["UPSTREAM_URL"]}", credential: main}}
""",
        encoding="utf-8",
    )
    async with program.serving("-c", "proxy.yaml", *ANY_PORTS, cwd=tmp_path, env=settings) as gateway:
        admin = int(gateway.admin.rpartition(":")[2])
        probe = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert 200 == (await ask(gateway.port, GET_ORDERS)).status
        assert 200 == (await ask(admin, probe)).status
        await _until_stopping(gateway)
        assert 503 == (await ask(admin, probe)).status
        answer = await ask(gateway.port, GET_ORDERS)
        assert (200, b"close") == (answer.status, answer.field(b"Connection"))
        assert gateway.process.returncode is None
        assert 0 == (await asyncio.wait_for(gateway.stop(), 20)).code


async def test_sigterm_inside_a_stream(servers: DemoServers, tmp_path: Path):
    """An answer that is being streamed comes to its end."""
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        client = await RawClient.connect(gateway.port)
        await client.send(b"GET /stream?lines=8&seconds=0.2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        await _until_stopping(gateway)
        rest = await client.reader.read()
        await client.close()
        ended = await _end(gateway)
    assert head.startswith(b"HTTP/1.1 200")
    assert 8 == len(re.findall(rb'"line": \d', rest))
    assert rest.endswith(b"0\r\n\r\n")
    assert 0 == ended


async def test_sigterm_during_a_token_request(tmp_path: Path):
    """The gateway does not wait for an authorization server that says nothing; who waits for the token is told."""
    never = asyncio.Event()
    async with ScriptedAuthorizationServer(default=token_reply(gate=never)) as server:
        env = {"TOKEN_URL": server.url, "CLIENT_ID": "x", "CLIENT_SECRET": "y", "UPSTREAM_URL": "http://127.0.0.1:1"}
        async with program.serving(*ANY_PORTS, cwd=tmp_path, env=env) as gateway:
            await until(lambda: len(server.requests) == 1)
            ended = await asyncio.wait_for(gateway.stop(), 10)
        assert (0, 1) == (ended.code, len(server.requests))


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_sigterm_inside_an_upload(servers: DemoServers, tmp_path: Path, framing: str):
    """An upload under way is neither cut nor corrupted: it gets its 201."""
    body = json.dumps({"item": "x" * 200_000, "quantity": 1}).encode()
    half = len(body) // 2
    head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if framing == "length":
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        first, rest = body[:half], body[half:]
    else:
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        first = b"%x\r\n%b\r\n" % (half, body[:half])
        rest = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - half, body[half:])
    async with program.serving(*ANY_PORTS, cwd=tmp_path, env=servers.settings()) as gateway:
        client = await RawClient.connect(gateway.port)
        await client.send(head + first)
        await _until_stopping(gateway)
        await client.send(rest)
        answer = await client.answer()
        await client.close()
        ended = await _end(gateway)
    assert 201 == answer.status
    assert "x" * 200_000 == json.loads(answer.body)["order"]["item"]
    assert 0 == ended


async def _until_stopping(gateway: program.Serving) -> None:
    """Sends SIGTERM and waits until the gateway says that it stops."""
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.stderr is not None
    while '"stopping"' not in (line := (await gateway.process.stderr.readline()).decode()):
        assert line


async def _end(gateway: program.Serving) -> int | None:
    await gateway.process.communicate()
    return gateway.process.returncode


def pipes(pid: int) -> int:
    """Returns how many pipes a process has both ends of."""
    names = Counter(str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return sum(times == 2 for name, times in names.items() if name.startswith("pipe"))


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
async def test_long_answers_leave_descriptors_for_every_connection(tmp_path: Path):
    """What they take beside goes only as far as no connection within the limit lacks its two."""

    async def begins(connection: ScriptedConnection) -> None:
        while True:
            long = b" /long " in await connection.request()
            connection.send(ok(b"x" * MIB)[: 300 * KIB] if long else ok())

    async with (
        ScriptedUpstream(begins) as upstream,
        ScriptedAuthorizationServer() as server,
        AsyncExitStack() as stack,
    ):
        text = simple_configuration(server.url, f"http://127.0.0.1:{upstream.port}", top="drain_timeout: 10ms")
        (tmp_path / "proxy.yaml").write_text(text, encoding="utf-8")
        few, env = ("prlimit", "--nofile=200:200"), {"CLIENT_SECRET": "a secret"}
        serving = program.serving("-c", "proxy.yaml", cwd=tmp_path, env=env, wrapper=few)
        gateway = await stack.enter_async_context(serving)
        assert 200 == (await ask(gateway.port, request())).status
        before = pipes(gateway.process.pid) if os.geteuid() == 0 else 0
        clients = [await stack.enter_async_context(connected(gateway.port)) for _ in range(59)]
        for client in clients:
            await client.send(request(target=b"/long"))
            assert 200 == (await client.answer(head_only=True)).status
            assert b"x" * 200 * KIB == await client.reader.readexactly(200 * KIB)
        if os.geteuid() == 0:  # else the process is closed to others
            assert before + 4 == pipes(gateway.process.pid)
        assert "event loop error" not in (await gateway.stop()).err
