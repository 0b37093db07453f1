"""A client that leaves in the very turn of the event loop in which its request changes hands."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from tests.support.both_loops import on_both_loops
from tests.support.gateway import running_gateway, simple_configuration
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer

CLOCK = SystemClock()
GET = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
SAID = {
    "401": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
    "a malformed answer": b"HTTP/1.1 2\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
}


@pytest.mark.parametrize("leaves_first", [True, False])
@pytest.mark.parametrize("said", SAID)
@on_both_loops
async def test_a_reset_together_with_the_upstreams_answer(tmp_path: Path, said: str, leaves_first: bool):
    """Nothing of the request is left: it is no longer under way, and its connection to the upstream is free or closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with ScriptedAuthorizationServer() as server:
            text = simple_configuration(server.url, f"http://127.0.0.1:{listener.getsockname()[1]}")
            async with running_gateway(text, tmp_path, environ={"CLIENT_SECRET": "s"}) as gateway:
                client = socket.create_connection(("127.0.0.1", gateway.port))
                client.sendall(GET)
                upstream, _ = await asyncio.to_thread(listener.accept)
                with upstream:
                    assert await asyncio.to_thread(upstream.recv, 65_536)
                    upstream.sendall(SAID["an answer"])
                    assert (await asyncio.to_thread(client.recv, 65_536)).startswith(b"HTTP/1.1 200 ")
                    client.sendall(GET)  # the token and the connection to the upstream are there now
                    assert await asyncio.to_thread(upstream.recv, 65_536)
                    # both without a turn of the event loop between them
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if leaves_first:
                        client.close()
                    upstream.sendall(SAID[said])
                    client.close()
                    async with asyncio.timeout(10):
                        while gateway.gateway.in_flight:
                            await CLOCK.sleep(0.01)
                    samples = await gateway.samples()
    assert 0 == samples["bearer_proxy_http_requests_in_flight", (("route", "all"),)]
    assert 0 == samples["bearer_proxy_upstream_connections", (("route", "all"), ("state", "busy"))]
