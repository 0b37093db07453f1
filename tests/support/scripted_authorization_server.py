"""An authorization server whose replies a test writes: real HTTP over loopback sockets, octet by octet as scripted.

It keeps every request's raw octets, can hold a reply back until it is released, cut one off, and be stopped and started
again on the same port. It checks nothing: what a right server would say is for the test to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Reply:
    """What to answer. `raw`, if given, is all that is sent; a reply with a gate waits until the gate is set."""

    status: int = 200
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    raw: bytes | None = None
    gate: asyncio.Event | None = None
    announced: int | None = None  # the Content-Length to claim, where it is not the body's
    reset: bool = False  # ends the connection with a reset, without TLS's goodbye
    drip_s: float | None = None  # sends the body octet by octet, with this pause between

    def octets(self) -> bytes:
        """The message as it is sent."""
        if self.raw is not None:
            return self.raw
        length = len(self.body) if self.announced is None else self.announced
        lines = [f"HTTP/1.1 {self.status} Scripted", f"Content-Length: {length}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def json_reply(status: int = 200, /, *, fields: tuple[tuple[str, str], ...] = (), **members: Any) -> Reply:
    """Returns a reply with this JSON object."""
    typed = (("Content-Type", "application/json"), *fields)
    return Reply(status=status, body=json.dumps(members).encode(), fields=typed)


def token_reply(
    token: str = "at-scripted", *, expires_in: Any = 3600, gate: asyncio.Event | None = None, **members: Any
) -> Reply:
    """Returns a right reply with this token."""
    body = json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": expires_in, **members})
    return Reply(body=body.encode(), gate=gate)


def error_reply(error: str, status: int = 400, /, **members: Any) -> Reply:
    """Returns an OAuth error (RFC 6749 §5.2)."""
    return json_reply(status, error=error, **members)


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it came."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0]

    def values(self, name: str) -> list[str]:
        """Returns the values of all fields of this name."""
        lines = [line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:]]
        return [value.strip() for field_name, _, value in lines if field_name.lower() == name.lower()]

    @property
    def form(self) -> list[tuple[str, str]]:
        """The form's parameters, decoded, in order."""
        return parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


@dataclass
class ScriptedAuthorizationServer:
    """Replies are taken from `script` first; then `default`, or else a fresh token `at-1`, `at-2`, … for an hour."""

    tls: ssl.SSLContext | None = None
    script: deque[Reply] = field(default_factory=deque)
    default: Reply | None = None
    requests: list[RecordedRequest] = field(default_factory=list)
    port: int = 0
    parallel: int = 0
    most_parallel: int = 0

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The token endpoint."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/token"

    async def start(self) -> None:
        """Listens: on a free port first, on the same one ever after."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections and cuts those that are open."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for handler in list(self._handlers):
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await server.wait_closed()
        for _ in range(3):  # turns in which aborted transports close their sockets; before 3.12 nothing waits for them
            await asyncio.sleep(0)  # noqa: TID251

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._writers.add(writer)
        self.parallel += 1
        self.most_parallel = max(self.most_parallel, self.parallel)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._answered(reader, writer)
        except asyncio.CancelledError:
            pass  # the server stops; a cancelled handler would be logged as an error
        finally:
            self.parallel -= 1
            self._writers.discard(writer)
            self._handlers.discard(task)
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = RecordedRequest(head, b"")
        lengths = request.values("content-length")
        body = await reader.readexactly(int(lengths[0]) if lengths else 0)
        self.requests.append(RecordedRequest(head, body))
        reply = self._next()
        if reply.gate is not None:
            await reply.gate.wait()
        if reply.drip_s is not None:
            writer.write(reply.octets().removesuffix(reply.body))
            for octet in reply.body:
                writer.write(bytes([octet]))
                await asyncio.sleep(reply.drip_s)  # noqa: TID251  # the drip itself
        elif not reply.reset:
            writer.write(reply.octets())
        await writer.drain()
        if reply.reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def _next(self) -> Reply:
        if self.script:
            return self.script.popleft()
        return self.default if self.default is not None else token_reply(f"at-{next(self._numbers)}")
