"""A gateway in front of one upstream of the test's own, with an authorization server that gives any token."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.support.gateway import RunningGateway, running_gateway, simple_configuration
from tests.support.raw_client import RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer

ONE_TRY = "retries: {connect: 0}"


@asynccontextmanager
async def in_front_of(
    upstream: int | str,
    folder: Path,
    *,
    route: str = "",
    top: str = "",
    credential: str = "",
    path_exact: str = "",
    listen: str = "",
    secret: str = "a secret",
    server: ScriptedAuthorizationServer | None = None,
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway with one route, for everything or for one path; `upstream` is a URL, or a port on loopback.

    The authorization server is the one given, or one that runs as long as the gateway.
    """
    url = upstream if isinstance(upstream, str) else f"http://127.0.0.1:{upstream}"
    async with AsyncExitStack() as stack:
        if server is None:
            server = await stack.enter_async_context(ScriptedAuthorizationServer())
        text = simple_configuration(server.url, url, route=route, top=top, credential=credential)
        if listen:
            text = text.replace("listen: 127.0.0.1:0", f"listen: {listen}")
        if path_exact:
            text = text.replace("path_prefix: /", f"path_exact: {path_exact}")
        yield await stack.enter_async_context(running_gateway(text, folder, environ={"CLIENT_SECRET": secret}))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    """Opens a connection, and resets it whatever becomes of the test: a mere end might be that of the sending alone."""
    client = await RawClient.connect(port)
    try:
        yield client
    finally:
        with suppress(OSError, AttributeError, ValueError):  # closed already; uvloop raises the last
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await client.close()


def request(
    method: bytes = b"GET", target: bytes = b"/", *fields: bytes, body: bytes = b"", version: bytes = b"1.1"
) -> bytes:
    """Returns the octets of a request; `fields` are whole lines, a body gets its Content-Length."""
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: localhost", *fields]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])
