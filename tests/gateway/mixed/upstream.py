"""An upstream of many manners: each request's path says how it is to be answered, and every answer bears its nonce.

``/KIND/NONCE`` is the target; the nonce stands in the field ``X-Nonce`` too, and the body is nothing but the nonce, again
and again. What arrives otherwise is noted as a fault: octets of two requests were mixed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from random import Random
from typing import Self

from proxy.transports import abort

KINDS = (
    "length", "length", "length", "chunked", "chunked", "until-close", "no-content", "not-modified", "early", "rejected", "delayed",
    "interim", "large", "cut", "reset", "extra",
)  # fmt: skip
BROKEN = frozenset({"cut", "reset"})  # the upstream's own failures: the client may see a problem or a cut
IDLE_CLOSE = 0.03  # how often the upstream closes a connection after an answer, a little later
_PAUSE_S = 0.01

_NONCE = re.compile(rb"(?im)^x-nonce: (\S+)\r$")
_LENGTH = re.compile(rb"(?im)^content-length: (\d+)\r$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding: chunked\r$")


class MixedUpstream:
    """The server: an async context manager. It counts what it executed, by nonce."""

    def __init__(self, seed: int) -> None:
        self.port = 0
        self.faults: list[str] = []
        self.executed: Counter[bytes] = Counter()  # by nonce: requests that would have had their effect
        self.connections = 0
        self._random = Random(seed)
        self._refused: set[bytes] = set()  # nonces that were answered with 401
        self._server: asyncio.Server
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.sleep(0)  # noqa: TID251  # a turn in which aborted transports close their sockets

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.connections += 1
        try:
            while await self._served(reader, writer):
                if self._random.random() < IDLE_CLOSE:
                    await asyncio.sleep(self._random.random() * _PAUSE_S)  # noqa: TID251  # closes while it is idle
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            abort(writer.transport)  # the server stops; a cancelled handler would be logged as an error
        finally:
            self._running.discard(task)
            writer.close()

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; tells whether the connection may serve another one."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        kind, nonce = target.decode("ascii").split("/")[1:]
        named = nonce.encode("ascii")
        if _NONCE.findall(head) != [named]:
            self.faults.append(f"{target!r} came with the fields of another request")
        if head.count(b"Authorization: Bearer at-") != 1:
            self.faults.append(f"{target!r} came without its token")
        if kind == "early" and method == b"POST":
            self.executed[named] += 1
            writer.write(answer(named, b"Connection: close"))
            await writer.drain()
            return False  # most of the body was not read: the end may be a reset, after the answer
        body = await self._body(head, reader)
        if body != named * (len(body) // len(named)):
            self.faults.append(f"{target!r} came with octets of another request's body")
        if kind == "rejected" and named not in self._refused:
            self._refused.add(named)
            writer.write(answer(named, status=b"401 Unauthorized", bodiless=method == b"HEAD"))
            return True
        self.executed[named] += 1
        return await self._said(kind, named, writer, bodiless=method == b"HEAD")

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        if _CHUNKED.search(head) is not None:
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
            return body
        length = _LENGTH.search(head)
        return b"" if length is None else await reader.readexactly(int(length[1]))

    async def _said(self, kind: str, nonce: bytes, writer: asyncio.StreamWriter, *, bodiless: bool) -> bool:
        random, named = self._random, b"X-Nonce: " + nonce
        body = b"" if bodiless else nonce * random.randint(1, 40)
        match kind:
            case "no-content":
                writer.write(b"HTTP/1.1 204 No Content\r\n" + named + b"\r\n\r\n")
            case "not-modified":
                writer.write(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n" + named + b"\r\n\r\n")
            case "chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + named + b"\r\n\r\n")
                while body:
                    size = random.randint(1, len(body))
                    writer.write(b"%x\r\n%s\r\n" % (size, body[:size]))
                    body = body[size:]
                    if random.random() < 0.3:
                        await asyncio.sleep(0)  # noqa: TID251  # so that the pieces are mostly read apart
                writer.write(b"" if bodiless else b"0\r\n\r\n")
            case "until-close":
                writer.write(b"HTTP/1.1 200 OK\r\n" + named + b"\r\n\r\n")
                await asyncio.sleep(0)  # noqa: TID251
                writer.write(body)
                return False
            case "cut":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n" + named + b"\r\n\r\n" + body)
                await asyncio.sleep(random.random() * _PAUSE_S)  # noqa: TID251
                _reset(writer)
                return False
            case "reset":
                _reset(writer)
                return False
            case "extra":  # a second answer, which nobody asked for, in the same piece
                writer.write(answer(nonce, bodiless=bodiless) + answer(b"unasked"))
                await asyncio.sleep(_PAUSE_S)  # noqa: TID251
                return False
            case "large":
                writer.write(answer(nonce, bodiless=bodiless, times=random.randint(1, 20_000)))
                await writer.drain()
            case _:
                if kind == "interim":
                    writer.write(b"HTTP/1.1 103 Early Hints\r\nX-Nonce: " + nonce + b"\r\n\r\n")
                if kind in {"interim", "delayed"}:
                    await asyncio.sleep(random.random() * _PAUSE_S)  # noqa: TID251
                writer.write(answer(nonce, bodiless=bodiless, times=random.randint(1, 40)))
        return True


def answer(nonce: bytes, *fields: bytes, status: bytes = b"200 OK", times: int = 3, bodiless: bool = False) -> bytes:
    """Returns an answer with a Content-Length whose body is the nonce, so many times."""
    length = b"Content-Length: %d" % (times * len(nonce))
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"X-Nonce: " + nonce, length, *fields, b"", b""])
    return head if bodiless else head + nonce * times


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    abort(writer.transport)
