"""An upstream that closes idle connections as it likes, and counts what arrived: every request once it was whole.

Each request names a nonce in its target, ``/n/NONCE``, and is answered with it. After an answer the connection may be
closed at once, or a moment later, with FIN or RST; or it turns deaf: the next octets on it are read by nobody, and it is
closed, as when the close and a request cross on the wire. Nothing is counted then, because nothing was processed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from enum import Enum
from random import Random
from typing import Self, cast

_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*(\d+)")
_TARGET = re.compile(rb"[A-Z]+ /n/(\w+) HTTP/1\.1\r\n")
_A_MOMENT_S = 0.004


class Whim(Enum):
    """What becomes of a connection after an answer."""

    KEPT = "kept"
    CLOSED = "closed"
    CLOSED_LATER = "closed later"
    RESET = "reset"
    RESET_LATER = "reset later"
    DEAF = "deaf"


_OF_A_HUNDRED = {
    Whim.KEPT: 70,
    Whim.CLOSED: 8,
    Whim.CLOSED_LATER: 6,
    Whim.RESET: 4,
    Whim.RESET_LATER: 6,
    Whim.DEAF: 6,
}


class FlakyUpstream:
    """The server: an async context manager."""

    def __init__(self, random: Random) -> None:
        self.port = 0
        self.arrived: Counter[bytes] = Counter()  # nonce -> how often it was processed
        self.ignored: Counter[bytes] = Counter()  # nonce -> how often it met a deaf connection
        self.whims: Counter[Whim] = Counter()
        self._random = random
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    def whim(self) -> Whim:
        """Returns what becomes of a connection now."""
        (whim,) = self._random.choices(list(_OF_A_HUNDRED), weights=list(_OF_A_HUNDRED.values()))
        self.whims[whim] += 1
        return whim

    def moment_s(self) -> float:
        """Returns a few milliseconds."""
        return self._random.random() * _A_MOMENT_S

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)

    def gone(self, connection: _Connection) -> None:
        self._open.discard(connection)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while self._open:
            for connection in tuple(self._open):
                connection.transport.abort()
            await asyncio.sleep(0)  # noqa: TID251  # a turn of the loop, in which they close


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, upstream: FlakyUpstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._upstream.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.gone(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            if (target := _TARGET.match(data)) is not None:
                self._upstream.ignored[target[1]] += 1
            self.transport.close()
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        end += int(length[1]) if length is not None else 0
        if len(self._buffer) < end:
            return
        target = _TARGET.match(self._buffer)
        assert target is not None
        nonce = target[1]
        del self._buffer[:end]
        self._upstream.arrived[nonce] += 1
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(nonce), nonce))
        self._obey(self._upstream.whim())

    def _obey(self, whim: Whim) -> None:
        later = asyncio.get_running_loop().call_later
        match whim:
            case Whim.CLOSED:
                self.transport.close()
            case Whim.CLOSED_LATER:
                later(self._upstream.moment_s(), self.transport.close)
            case Whim.RESET:
                self._reset()
            case Whim.RESET_LATER:
                later(self._upstream.moment_s(), self._reset)
            case Whim.DEAF:
                self._deaf = True
            case Whim.KEPT:
                pass

    def _reset(self) -> None:
        if not self.transport.is_closing():
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
