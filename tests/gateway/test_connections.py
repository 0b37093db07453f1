"""A client's connection from its first octet to its end: deadlines, bounds and refusals at any position."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.demo.servers import DemoServers
from proxy.http1.wire import METHODS
from proxy.tasks import Tasks
from tests.support.both_loops import on_both_loops
from tests.support.fronting import connected, in_front_of, request
from tests.support.gateway import Taken, running_gateway, simple_configuration
from tests.support.raw_client import ask

CLOCK = SystemClock()
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@on_both_loops
async def test_who_resets_before_being_accepted_gets_nothing(tmp_path: Path):
    """A connection whose peer is not known any more is nobody's: no rule for clients can be applied to it.

    The event loop is held while a client sends a request and resets; only then is the connection accepted.
    """
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = simple_configuration(
            settings["TOKEN_URL"], settings["UPSTREAM_URL"], top="access: {allowed_clients: [127.0.0.2/32]}"
        )
        async with running_gateway(text, tmp_path, environ=settings) as gateway:
            assert 403 == (await ask(gateway.port, request())).status
            for _ in range(20):
                with socket.socket() as client:  # blocking calls: the loop does not run meanwhile
                    client.connect(("127.0.0.1", gateway.port))
                    client.sendall(request(b"POST", b"/orders", b"Content-Type: application/json", body=b"{}"))
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                await CLOCK.sleep(0.01)
            assert 403 == (await ask(gateway.port, request())).status
            assert 0 == servers.protected_api.requests


@pytest.mark.parametrize("position", ["first", "second"])
async def test_a_head_that_never_ends_is_cut_at_its_bound(tmp_path: Path, position: str):
    """The bound holds for the whole head, not for each line, at any position; the answer is not lost to a reset."""
    top = "limits: {head_bytes: 8KiB, field_count: 1000}"
    async with in_front_of(1, tmp_path, top=top) as gateway, connected(gateway.port) as client:
        if position == "second":
            await client.send(request(b"GET", b"/", b"Origin: https://evil.example"))
            assert 403 == (await client.answer()).status
        sent = 0
        try:
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            while sent < 4_000_000:
                await client.send(b"X-%06d: %b\r\n" % (sent, b"a" * 4000))
                sent += 4000
        except ConnectionError:
            pass
        assert 431 == (await client.answer()).status


async def test_a_malformed_chunk_is_refused_at_once(tmp_path: Path):
    """A fault that comes after its head was forwarded ends the request with 400, not at a deadline."""
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = simple_configuration(
            settings["TOKEN_URL"], settings["UPSTREAM_URL"], top="limits: {body_idle_timeout: 1h}"
        )
        async with running_gateway(text, tmp_path, environ=settings) as gateway, connected(gateway.port) as client:
            await client.send(request(b"POST", b"/orders", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
            await servers.protected_api.until_requests(1)
            await client.send(b"ZZ\r\n")
            answer = await client.answer()
            assert (400, b"close") == (answer.status, answer.field(b"Connection"))
            assert await client.closed()
        assert 0 == servers.protected_api.created


@pytest.mark.parametrize("before", [0, 1, 3], ids=["first", "second", "pipelined"])
async def test_a_stalled_head_gets_408(tmp_path: Path, before: int):
    """The deadline of a head counts from its first octet, or from the answer it was pipelined behind."""
    async with in_front_of(1, tmp_path, top="limits: {head_timeout: 300ms}") as gateway:
        async with connected(gateway.port) as client:
            await client.send(request(b"GET", b"/", b"Origin: https://evil.example") * before + b"GET / HTTP/1.1\r\nHo")
            for _ in range(before):
                assert 403 == (await client.answer()).status
            assert 408 == (await client.answer()).status
            assert await client.closed()
        assert 1 == await gateway.sample("bearer_proxy_requests_refused_total", reason="request-timeout")


async def test_empty_lines_between_requests_start_no_deadline(tmp_path: Path):
    """Some clients send one after a body: no unasked 408, and the next request is served."""
    refused = request(b"GET", b"/", b"Origin: https://evil.example")
    top = "limits: {head_timeout: 100ms}"
    async with in_front_of(1, tmp_path, top=top) as gateway, connected(gateway.port) as client:
        await client.send(refused)
        assert 403 == (await client.answer()).status
        await client.send(b"\r\n")
        await CLOCK.sleep(0.5)
        await client.send(refused)
        assert 403 == (await client.answer()).status


async def test_draining_lets_a_head_under_way_finish(tmp_path: Path):
    """A request whose head is half there when the gateway is told to stop is served like any other."""
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"])
        async with running_gateway(text, tmp_path, environ=settings) as gateway, connected(gateway.port) as client:
            await client.send(b"GET /orders HTTP/1.1\r\nHo")
            while not gateway.gateway.server.open_connections:
                await CLOCK.sleep(0.01)
            await CLOCK.sleep(0.05)
            tasks = Tasks()
            stopping = tasks.start(gateway.gateway.server.drain(20), name="drain")
            await CLOCK.sleep(0.2)
            await client.send(b"st: localhost\r\n\r\n")
            answer = await client.answer()
            assert (200, b"close") == (answer.status, answer.field(b"Connection"))
            assert await stopping


@pytest.mark.parametrize(
    "sent", [b"GET /orders HTTP/1.1\r\nHo", b"GET /slow?seconds=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
@pytest.mark.parametrize("earlier", [0, 1], ids=["a first request", "a later one"])
async def test_after_the_drain_timeout_the_rest_gets_503(tmp_path: Path, sent: bytes, earlier: int):
    """503 `draining`, only after the time is over; being told again ends the waiting."""
    if earlier and b"slow" not in sent and not Taken.direct:
        pytest.skip("aiohttp closes a kept connection with a head under way")
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"])
        async with running_gateway(text, tmp_path, environ=settings) as gateway, connected(gateway.port) as client:
            for _ in range(earlier):
                await client.send(request(b"GET", b"/orders"))
                assert (await client.answer()).status == 200
            await client.send(sent)
            if b"slow" in sent:
                await servers.protected_api.until_requests(earlier + 1)
            else:
                await CLOCK.sleep(0.2)
            tasks = Tasks()
            stopping = tasks.start(gateway.gateway.server.drain(3600), name="drain")
            await CLOCK.sleep(0.2)
            gateway.gateway.hurry()
            answer = await client.answer()
            assert 503 == answer.status
            assert "urn:bearer-proxy:problem:draining" == json.loads(answer.body)["type"]
            assert not await stopping
            gateway.gateway.hurry()  # once more, when all is over, harms nothing


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_every_listed_method_is_forwarded(tmp_path: Path, method: bytes):
    """The list of methods and what the parser takes agree: nobody listens upstream, so each gets that far."""
    async with in_front_of(1, tmp_path, route="retries: {connect: 0}") as gateway:
        assert 502 == (await ask(gateway.port, request(method))).status


@on_both_loops
async def test_what_is_pipelined_behind_a_refused_upgrade_stays_in_step(tmp_path: Path):
    """No octet behind a request for HTTP/2 or TLS is lost: a body that looks like a request must not become one."""
    async with DemoServers(clock=SystemClock()) as servers:
        settings = servers.settings()
        text = simple_configuration(settings["TOKEN_URL"], settings["UPSTREAM_URL"])
        async with running_gateway(text, tmp_path, environ=settings) as gateway:
            for token in (b"h2c", b"TLS/1.0", b"h2c, HTTP/2.0", b'websocket"?'):
                upgrade = request(b"GET", b"/orders", b"Connection: upgrade", b"Upgrade: " + token)
                hidden = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
                post = request(b"POST", b"/orders", b"Content-Type: application/json", body=hidden)
                async with connected(gateway.port) as client:
                    await client.send(upgrade + post[: -len(hidden)])
                    await CLOCK.sleep(0.05)
                    await client.send(hidden + request(b"GET", b"/orders/7"))
                    assert [200, 400, 200] == [(await client.answer()).status for _ in range(3)]
        assert {"/orders", "/orders/7"} == {seen.target for seen in servers.protected_api.seen}


@on_both_loops
async def test_a_flood_of_pipelined_requests_leaves_others_their_turn(tmp_path: Path):
    """Thousands of requests in one piece are answered one by one, with everybody else's in between."""
    flood = request(b"GET", b"/", b"Origin: https://evil.example") * 2000
    async with in_front_of(1, tmp_path) as gateway, connected(gateway.port) as flooding:
        await flooding.send(flood)
        async with connected(gateway.port) as client:
            await client.send(request(b"GET", b"/", b"Origin: https://evil.example"))
            assert 403 == (await client.answer()).status
        refused = await gateway.sample("bearer_proxy_requests_refused_total", reason="browser-refused")
        assert refused < 2000


async def test_who_is_not_allowed_is_not_kept(tmp_path: Path):
    """A client outside the allowed networks gets one refusal, and its connection closes."""
    top = "access: {allowed_clients: [127.0.0.2/32]}"
    async with in_front_of(1, tmp_path, top=top) as gateway, connected(gateway.port) as client:
        await client.send(request() * 100)
        answer = await client.answer()
        assert (403, b"close") == (answer.status, answer.field(b"Connection"))
        assert await client.closed()


@on_both_loops
async def test_clients_that_connect_at_the_same_time(tmp_path: Path):
    """Several are accepted in one turn of the event loop, so that their requests go on together."""
    async with in_front_of(9, tmp_path) as gateway:
        with contextlib.ExitStack() as clients:
            for _ in range(8):  # blocking calls: the loop does not run meanwhile
                clients.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            for _ in range(4):  # from the listener's wake-up to the last connection's place
                await CLOCK.sleep(0)
            assert gateway.gateway.server.open_connections == 8
