"""One gateway and one upstream for many rows of raw octets: each test says what the upstream does, and sees all it got.

Every route opens a connection for each request, so that a row knows its own; `/kept` reuses connections.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fronting import connected, request
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.raw_client import Answer, RawClient
from tests.support.scripted_authorization_server import ScriptedAuthorizationServer
from tests.support.scripted_upstream import Script, ScriptedConnection, ScriptedUpstream, always, ok

FINE = ok(b"fine")
GET = request()
OURS = frozenset(
    {b"host", b"authorization", b"via", b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
)


class World:
    """What a test talks to. `script` says what the upstream does on each new connection."""

    def __init__(self, gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.script: Script = always(FINE)
        self._start = 0  # connections of the upstream that belong to tests before

    def begin(self) -> None:
        """Begins a test: the upstream answers 200, and nothing has come to it yet."""
        self.script = always(FINE)
        self._start = len(self.upstream.connections)

    @property
    def port(self) -> int:
        """The gateway's port."""
        return self.gateway.port

    @property
    def connections(self) -> list[ScriptedConnection]:
        """The upstream's connections of this test, in the order of being accepted."""
        return self.upstream.connections[self._start :]

    @property
    def requests(self) -> list[bytes]:
        """The whole requests that came to the upstream in this test."""
        return [request for connection in self.connections for request in connection.requests]

    async def connection(self, index: int = 0) -> ScriptedConnection:
        """Waits for the upstream's connection of this number."""
        return await self.upstream.connection(self._start + index)

    def says(self, answer: bytes, *, then: str = "stall") -> None:
        """Has the upstream answer each request with these octets, and then wait, `close` or `reset`."""

        async def script(connection: ScriptedConnection) -> None:
            await connection.request()
            connection.send(answer)
            if then == "close":
                connection.close()
            elif then == "reset":
                connection.reset()
            elif then == "half-close":
                connection.half_close()
            else:
                await connection.request()

        self.script = script

    async def ask(self, data: bytes) -> Answer:
        """Sends octets on a connection of its own, and returns the first final answer."""
        client = await RawClient.connect(self.port)
        try:
            await client.send(data)
            return await client.answer(head_only=data.lstrip(b"\r\n").startswith(b"HEAD "))
        finally:
            client.writer.transport.abort()
            await client.close()

    async def refused(self, data: bytes) -> Answer:
        """Sends octets as a connection's first request, and as its second one; returns the answer, the same for both.

        The upstream sees nothing but the good request before the second.
        """
        first = await self.ask(data)
        assert [] == self.connections
        async with connected(self.port) as client:
            await client.send(GET)
            assert 200 == (await client.answer()).status
            await client.send(data)
            second = await client.answer(head_only=data.startswith(b"HEAD "))
        assert (first.status, suffix(first)) == (second.status, suffix(second))
        assert first.field(b"Connection") == second.field(b"Connection")
        assert 1 == len(self.requests)
        return first

    async def forwarded(self, data: bytes) -> Forwarded:
        """Sends a request that is answered with 200, and returns what the upstream got."""
        answer = await self.ask(data)
        assert 200 == answer.status, answer
        return Forwarded(self.requests[-1])


class Forwarded:
    """A request as the upstream got it."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        head, _, self.body = octets.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        self.method, self.target, self.version = line.split(b" ")
        self.fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        """Returns the values of all lines with this name."""
        return [value for other, value in self.fields if other.lower() == name.lower()]

    @property
    def theirs(self) -> list[tuple[bytes, bytes]]:
        """The fields that are not the gateway's own."""
        return [field for field in self.fields if field[0].lower() not in OURS]


@asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
    """Runs the gateway, its authorization server and its upstream."""

    async def serve(connection: ScriptedConnection) -> None:
        await world.script(connection)

    async with ScriptedAuthorizationServer() as server, ScriptedUpstream(serve) as upstream:
        text = f"""\
version: 1
listen: 127.0.0.1:0
admin: 127.0.0.1:0
credentials:
  main: &credential {{token_endpoint: {server.url}, client_id: legacy-app, client_secret: "a secret"}}
  other: {{<<: *credential, client_id: another-app}}
x-route: &route
  upstream: http://127.0.0.1:{upstream.port}
  credential: main
  pool: {{reuse: false}}
  retries: {{connect: 0}}
routes:
  - {{<<: *route, name: all, match: {{path_prefix: /}}}}
  - {{<<: *route, name: admin, match: {{path_prefix: /admin}}, credential: other}}
  - {{<<: *route, name: encoded, match: {{path_prefix: /100%25;v=1}}, credential: other}}
  - {{<<: *route, name: get, match: {{path_prefix: /get, methods: [GET]}}}}
  - {{<<: *route, name: raw, match: {{path_prefix: /raw}}, path_policy: raw}}
  - {{<<: *route, name: kept, match: {{path_prefix: /kept}}, pool: {{reuse: true}}}}
  - <<: *route
    name: based
    match: {{path_prefix: /based}}
    upstream: http://127.0.0.1:{upstream.port}/v1
    strip_prefix: true
"""
        async with running_gateway(text, folder) as gateway:
            world = World(gateway, upstream)
            yield world


def suffix(answer: Answer) -> str:
    """Returns which problem an answer tells, after checking that it is one of the gateway's own."""
    assert b"application/problem+json" == answer.field(b"Content-Type"), answer
    return str(json.loads(answer.body)["type"]).removeprefix("urn:bearer-proxy:problem:")


def row(*values: object, id: str) -> object:  # noqa: A002  # pytest's own word
    """Returns one row of a table."""
    return pytest.param(*values, id=id)
