"""An HTTP proxy that a client asks by CONNECT or by absolute-form, over real loopback sockets; it keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit


class TunnellingProxy:
    """Lets through whoever shows the right credentials; None: everybody. An async context manager."""

    def __init__(self, authorization: str | None = None, *, refusal: bytes = b"") -> None:
        self.heads: list[bytes] = []  # every request's, up to the empty line
        self.port = 0
        self._authorization = authorization
        self._refusal = refusal  # what to answer to everybody, where it is given
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._served, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answered(reader, writer)
        except asyncio.CancelledError:
            pass  # a cancelled handler would be logged as an error
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        shown = [
            line.partition(b":")[2].strip().decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"proxy-authorization:")
        ]
        if self._refusal:
            writer.write(self._refusal)
            return
        if self._authorization is not None and shown != [self._authorization]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = head.split(b" ", 2)
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            onward = await asyncio.open_connection(host, int(port))
        else:
            parts = urlsplit(target.decode())
            onward = await asyncio.open_connection(parts.hostname, parts.port)
            origin = head.replace(target, parts.path.encode(), 1)
            lines = [line for line in origin.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
            onward[1].write(b"\r\n".join(lines))
        await asyncio.gather(_copied(reader, onward[1]), _copied(onward[0], writer))


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
