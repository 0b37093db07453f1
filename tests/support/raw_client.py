"""A client that sends exactly the octets it is told to, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One HTTP/1.1 answer as it came."""

    status: int
    head: bytes
    body: bytes

    def field(self, name: bytes) -> bytes | None:
        """Returns a field's value, None if there is none; the first if there are several."""
        found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*(.*?)[ \t]*\r$", self.head)
        return None if found is None else found[1]


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> RawClient:
        """Opens a connection."""
        return cls(*await asyncio.open_connection(host, port))

    async def send(self, data: bytes) -> None:
        """Sends octets."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Reads one final answer with its body (Content-Length, chunked or until close)."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        answer = Answer(status, head, b"")
        if head_only or status in {204, 304} or status < 200:
            return answer
        if (answer.field(b"Transfer-Encoding") or b"").lower() == b"chunked":
            return Answer(status, head, await self._chunked())
        if (length := answer.field(b"Content-Length")) is not None:
            return Answer(status, head, await self.reader.readexactly(int(length)))
        return Answer(status, head, await self.reader.read())

    async def _chunked(self) -> bytes:
        body = b""
        while True:
            size = int((await self.reader.readline()).split(b";")[0], 16)
            data = await self.reader.readexactly(size + 2)
            if size == 0:
                return body
            body += data[:-2]

    async def closed(self) -> bool:
        """Waits for the other side to close; returns True if no further octet came."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        """Closes the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def ask(port: int, data: bytes) -> Answer:
    """Sends a request on a connection of its own and returns the answer."""
    client = await RawClient.connect(port)
    try:
        await client.send(data)
        return await client.answer(head_only=data.startswith(b"HEAD "))
    finally:
        await client.close()
