"""A kept connection that turns out to be of no use as a request is about to go: another takes it, and nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from tests.support.both_loops import on_both_loops
from tests.support.fake_clock import until
from tests.support.fronting import in_front_of, request
from tests.support.gateway import Taken
from tests.support.scripted_upstream import WITHIN_S, ok

POST = request(b"POST", b"/2", body=b"body")


async def received(end: socket.socket, suffix: bytes) -> bytes:
    """Reads until that comes."""
    data = b""
    while not data.endswith(suffix):
        piece = await asyncio.get_running_loop().sock_recv(end, 65536)
        assert piece, data
        data += piece
    return data


async def kept(server: socket.socket, clients: list[socket.socket]) -> list[socket.socket]:
    """Has each client ask at the same time; returns the upstream's ends of the connections that are idle afterwards."""
    loop, ends = asyncio.get_running_loop(), []
    for client in clients:
        await loop.sock_sendall(client, request(target=b"/1"))
        ends.append((await loop.sock_accept(server))[0])
        await received(ends[-1], b"\r\n\r\n")
    for end, client in zip(ends, clients, strict=True):
        await loop.sock_sendall(end, ok(b"first"))
        await received(client, b"first")
    return ends


@pytest.mark.parametrize("idle", [1, 2, 3])
@pytest.mark.parametrize("says", ["its end", "something unasked", "a reset"])
@pytest.mark.parametrize(
    "pieces", [[request(target=b"/2")], [POST], [POST[:-2], POST[-2:]]], ids=["GET", "POST", "two pieces"]
)
@on_both_loops
async def test_it_closes_in_the_moment_of_a_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, idle: int, says: str, pieces: list[bytes]
):
    """Whatever the method, without a retry, and once. The event loop hears of both in one turn, of the request first."""
    caplog.set_level("INFO", "proxy.access")
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        async with (
            asyncio.timeout(WITHIN_S),
            in_front_of(server.getsockname()[1], tmp_path, route="retries: {connect: 0, budget: 0}") as gateway,
        ):
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(idle)]
            for client in clients:
                client.setblocking(False)
            ends = await kept(server, clients)
            for end in ends:
                stack.enter_context(end)

            # from here on the event loop does not run, and the newest idle connection is the last one
            clients[0].send(pieces[0])
            stale = ends[-1]
            if says == "its end":
                stale.shutdown(socket.SHUT_WR)
            elif says == "a reset":
                stale.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                stale.close()
            else:
                stale.send(ok(b"stray"))
            await SystemClock().sleep(0)
            for piece in pieces[1:]:
                await SystemClock().sleep(0.05)
                clients[0].send(piece)

            taken = ends[-2] if idle > 1 else stack.enter_context((await loop.sock_accept(server))[0])
            expected = b"body" if b"POST" in pieces[0] else b"\r\n\r\n"
            arrived = await received(taken, expected)
            assert arrived.count(b"HTTP/1.1") == 1
            await loop.sock_sendall(taken, ok(b"second"))
            assert b"HTTP/1.1 200 " in await received(clients[0], b"second")
            await until(lambda: len(caplog.records) > idle)
            (line,) = [
                r.__dict__["fields"] for r in caplog.records if r.__dict__.get("fields", {}).get("target") == "/2"
            ]
            octets = 4 if expected == b"body" else 0
            assert (200, 1, octets) == (line["status"], line["tries"], line["request_bytes"])
            assert "error" not in line
            samples = await gateway.samples()
            assert not [
                key for key, value in samples.items() if key[0] == "bearer_proxy_upstream_errors_total" and value
            ]
            if says != "a reset" and Taken.direct:
                stale.setblocking(False)
                with contextlib.suppress(ConnectionResetError):  # what it said unasked was not read
                    assert await loop.sock_recv(stale, 1) == b""


@asynccontextmanager
async def one_kept(
    folder: Path, *, route: str = ""
) -> AsyncIterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A client of a gateway that keeps one connection; its upstream's listener, and its end of that connection."""
    route = f"retries: {{connect: 0, budget: 0}}\n{route}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        async with (
            asyncio.timeout(WITHIN_S),
            in_front_of(server.getsockname()[1], folder, route=route) as gateway,
        ):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            client.setblocking(False)
            (end,) = await kept(server, [client])
            yield client, server, stack.enter_context(end)


@pytest.mark.parametrize("size", [4, 20_000], ids=["sent at the end of the turn", "sent at once"])
@on_both_loops
async def test_a_body_that_is_not_held(size: int, tmp_path: Path):
    """It goes on another connection like any other, since this one is asked before it is taken."""
    loop, body = asyncio.get_running_loop(), b"x" * (size - 1) + b"!"
    async with one_kept(tmp_path, route="on_unauthorized: {max_replay_body: 0}") as (client, server, stale):
        client.send(request(b"POST", b"/2", body=body))
        stale.shutdown(socket.SHUT_WR)
        with (await loop.sock_accept(server))[0] as taken:
            assert (await received(taken, b"!")).endswith(body)
            await loop.sock_sendall(taken, ok(b"second"))
            assert (await received(client, b"second")).startswith(b"HTTP/1.1 200 ")


@on_both_loops
async def test_there_is_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Nothing was sent, and the log says so: no try, and no time before one."""
    caplog.set_level("INFO", "proxy.access")
    loop = asyncio.get_running_loop()
    async with one_kept(tmp_path) as (client, server, stale):
        client.send(request(target=b"/2"))
        stale.shutdown(socket.SHUT_WR)
        server.close()
        assert (await loop.sock_recv(client, 65536)).startswith(b"HTTP/1.1 502 ")
        await until(lambda: len(caplog.records) > 1)
        line = caplog.records[-1].__dict__["fields"]
        assert ("/2", "connection_refused", 0) == (line["target"], line["error"], line["tries"])
        assert "before_upstream_ms" not in line
