"""aiohttp's server for the admin listener: by public overrides only, small limits, and nothing of the input repeated.

Each connection carries one request and ends within LIFE_S whatever its client does or does not do, so that one deadline
bounds a slow head, a slow scrape and a client that does not read. At most MAX_CONNECTIONS are open at a time; when they
are, a new one takes the place of the one that has been silent for longest, or else of one that has not taken its answer
within UNREAD_S, so that nobody can lock out the probes by connecting or by asking alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.clock import Clock
from proxy.log import RateLimited
from proxy.units import KIB, SECONDS

LIFE_S = 20 * SECONDS
UNREAD_S = 3 * SECONDS  # as a probe or a scraper waits for a few seconds itself
_SILENT_S, _ASKING_S = -math.inf, math.inf
MAX_CONNECTIONS = 64
END_S = 1 * SECONDS
_MAX_LINE = 4 * KIB
_MAX_FIELD = 4 * KIB
_MAX_FIELDS = 64
_READ_BUFFER = 4 * KIB
_LINGER_S = 1 * SECONDS  # for a body nobody asked for, so that the answer is not lost to a reset
_log = logging.getLogger("proxy.admin")
_warnings = RateLimited(_log, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; what every answer carries is added when it is sent."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_status(cls, status: int, *fields: tuple[str, str]) -> Answer:
        """Returns an answer whose text is its status's own."""
        return cls(status=status, body=f"{HTTPStatus(status).phrase.lower()}\n".encode("ascii"), fields=fields)


class AdminHttp(web.Server):
    """Makes the protocol of each connection and knows those that are open."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[Answer]], clock: Clock) -> None:
        """`answer` decides; its exceptions become a 500 without a word of theirs."""
        super().__init__(self._serve, handler_cancellation=True)
        self._answer = answer
        self.clock = clock
        # connections that were let in, oldest first: until when each has its place for itself, seconds, monotonic
        self.open: dict[asyncio.Transport, float] = {}
        self.ended = False

    async def end(self) -> None:
        """Closes every connection, those that the listener still brings included; a request under way gets END_S."""
        self.ended = True
        self.pre_shutdown()  # an idle one would wait for its client
        await self.shutdown(END_S)  # aiohttp takes 0 for no limit
        for transport in list(self.open):
            transport.abort()  # what its client does not read would stay

    def __call__(self) -> web.RequestHandler:
        """Returns the protocol for a new connection."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=LIFE_S,
            access_log=None,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_FIELD,
            max_headers=_MAX_FIELDS,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,
        )

    def make_room(self) -> bool:
        """Returns whether one more connection may be open; if need be, ends the one that has asked nothing, or read nothing."""
        if len(self.open) < MAX_CONNECTIONS:
            return True
        first = min(self.open, key=self.open.__getitem__)
        if self.open[first] > self.clock.now():
            return False
        del self.open[first]
        first.abort()
        return True

    def let_in(self, transport: asyncio.Transport) -> None:
        """Gives a connection its place, until another one wants it."""
        self.open[transport] = _SILENT_S

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        self._keeps_place(transport, _ASKING_S)
        try:
            return _Written(await self._answer(request), self.clock)
        finally:
            self._keeps_place(transport, self.clock.now() + UNREAD_S)

    def _keeps_place(self, transport: asyncio.Transport | None, until_s: float) -> None:
        if transport in self.open:
            self.open[transport] = until_s


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_end", "_http", "_let_in")

    def __init__(self, http: AdminHttp, **options: Any) -> None:
        super().__init__(http, **options)
        self._http = http
        self._let_in: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the connection's life, or ends it if there are too many."""
        link = cast("asyncio.Transport", transport)  # uvloop's transports do not derive from asyncio's
        if self._http.ended:  # accepted just before the listener closed
            link.abort()
            return
        if not self._http.make_room():
            _warnings.warning("too many admin connections")
            link.abort()
            return
        self._http.let_in(link)
        self._let_in = link
        self._end = asyncio.get_running_loop().call_later(LIFE_S, link.abort)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends the connection's life."""
        if self._let_in is not None:
            self._http.open.pop(self._let_in, None)
            self._let_in = None
        if self._end is not None:
            self._end.cancel()
            self._end = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's text quotes the client's octets
    ) -> web.StreamResponse:
        """Answers what the parser refused and what went wrong here, with fixed text."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        if status < 500:
            _warnings.log(logging.DEBUG, "malformed admin request")
        else:
            info = None if exc is None else (type(exc), exc, exc.__traceback__)
            _warnings.warning("an admin request failed", {"status": status}, exc_info=info)
        return _Written(Answer.of_status(400 if status < 500 else 500), self._http.clock)


class _Written(web.StreamResponse):
    """An answer in aiohttp's terms, written by ourselves: aiohttp would add a Server field with its version."""

    def __init__(self, answer: Answer, clock: Clock) -> None:
        super().__init__(status=answer.status)
        self._octets = answer
        self._clock = clock
        self._done = False
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the whole answer once; to HEAD without its body."""
        if not self._done:
            self._done = True
            await request.writer.write(self._whole(with_body=request.method != "HEAD"))
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: the body was written."""

    def _whole(self, *, with_body: bool) -> bytes:
        answer = self._octets
        fields = (
            ("Date", formatdate(self._clock.wall(), usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *answer.fields,
            ("Connection", "close"),
        )
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *map(": ".join, fields), "", ""]
        return "\r\n".join(lines).encode("ascii") + (answer.body if with_body else b"")
