"""The client's side of one request: its body read, its answer written, whoever holds the connection.

A ``Wire`` is the connection as one request sees it: aiohttp's (``general``) or our own (``upgrade``). Heads and bodies
are written as our own bytes: a library would add fields (Content-Type, Server), re-spell names and lose octets above
0x7F.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.clock import http_date
from proxy.errors import Problem, Refusal
from proxy.gateway import answer
from proxy.gateway.problem import Reply
from proxy.gateway.record import ClientGone
from proxy.gateway.settings import Limits
from proxy.gateway.tunnel import Switched
from proxy.http1.framing import LAST_CHUNK, BodyKind, Framing, encode_chunk
from proxy.http1.wire import RequestHead, ResponseHead, head_octets
from proxy.tasks import Tasks
from proxy.transports import abort, reset
from proxy.units import KIB, SECONDS
from proxy.upstream.exchange import Exchange

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# While other requests wait for a connection of the same upstream, a client that is sending a body slower than this, on
# average over the time that we waited for it, makes room for them (408); so does one that takes its answer as slowly, by
# being cut off. Apache's mod_reqtimeout asks for 500 octets a second, always; here a slow client is left in peace for as
# long as nobody needs its place.
MIN_RATE = 1 * KIB  # octets a second
SLOW_START_S = 3 * SECONDS  # nobody is judged by less
_PACE_LOOK_S = 1 * SECONDS
UNREAD = "the client does not read its answer"
LAGGING = "the client takes its answer too slowly while others wait"


class Wire(Protocol):
    """A client's connection, as one request and its answer use it."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The connection's transport; None once it is gone."""

    @property
    def body_complete(self) -> bool:
        """Tells whether the whole request body was read."""

    def read_nowait(self) -> bytes:
        """Returns what has come of the request body; b"" if nothing has. Raises as `read` does."""

    async def read(self) -> bytes:
        """Returns the next octets of the request body, b"" at its end.

        Raises ConnectionError or OSError if the client is gone, Refusal(BAD_REQUEST) if the body is malformed or cut.
        """

    def untaken(self) -> int:
        """Returns how many octets were written that the client's side has not taken yet, the system's included."""

    async def write(self, data: bytes) -> None:
        """Writes octets and waits while the client does not take them. Raises ConnectionError if it is gone."""


class ClientStream:
    """One request and its answer. Every wait is bounded by the limits."""

    def __init__(
        self, head: RequestHead, wire: Wire, limits: Limits, *, keep_alive: bool, switched: Switched | None = None
    ) -> None:
        """`keep_alive` says whether the connection may serve another request; `switched` is one that may become a tunnel."""
        self.head = head
        self.switched = switched
        self._wire = wire
        self.limits = limits
        self._framing = Framing(BodyKind.NONE)
        self.started = False  # the head of the final answer was written
        self.keep_alive = keep_alive
        self.continued = False
        self.octets_out = 0
        self._loop = asyncio.get_running_loop()
        self._crowded: Callable[[], bool] | None = None  # while the answer holds what others may wait for
        self._waited_s = 0.0  # for the client to take its answer, in all
        self._given_up = UNREAD  # why, if it is
        self._look_s = min(limits.write_idle_timeout_s / 2 or _PACE_LOOK_S, _PACE_LOOK_S)
        self._look: asyncio.TimerHandle | None = None  # at the client's progress, while something is written

    @property
    def body_complete(self) -> bool:
        """Tells whether the whole request body was read."""
        return self._wire.body_complete

    async def read(self) -> bytes:
        """Returns the next octets of the request body, b"" at its end.

        Raises Refusal(REQUEST_TIMEOUT) if none come in time, Refusal(BAD_REQUEST) if the body is malformed or cut.
        """
        wire = self._wire
        try:
            if data := wire.read_nowait():
                return data
            if wire.body_complete:
                return b""
            async with asyncio.timeout(self.limits.body_idle_timeout_s or None):
                return await wire.read()
        except TimeoutError:
            raise Refusal(Problem.REQUEST_TIMEOUT, "the request body stalled") from None
        except (ConnectionError, OSError) as error:
            raise ClientGone from error

    async def send_continue(self) -> None:
        """Sends 100 Continue once, unless the answer has begun."""
        if not self.continued and not self.started:
            self.continued = True
            await self._write(_CONTINUE)

    async def reply(self, reply: Reply, *, close: bool) -> None:
        """Sends a whole answer of the gateway's own."""
        length = Framing(BodyKind.LENGTH, len(reply.body))
        if reply.status == 204:
            length = Framing(BodyKind.NONE)
        lines = [name + b": " + value for name, value in reply.fields]
        await self.begin(reply.status, reply.reason, lines, length, dated=False, close=close or reply.close)
        if reply.body and self.head.method != b"HEAD":
            await self.send(reply.body)
        await self.end()

    async def begin(
        self, status: int, reason: bytes, lines: list[bytes], framing: Framing, *, dated: bool, close: bool
    ) -> None:
        """Sends the answer's head. `framing` says how long the body is; how it is framed depends on the client."""
        framing = self._framing = answer.framed(framing, version=self.head.version)
        self.keep_alive = self.keep_alive and not close and framing.kind is not BodyKind.UNTIL_CLOSE
        head = answer.answer_head(
            status,
            reason,
            lines,
            framing,
            method=self.head.method,
            version=self.head.version,
            keep_alive=self.keep_alive,
            dated=dated,
            date=http_date,
        )
        self.started = True
        await self._write(head)

    async def switch(self, reason: bytes, lines: list[bytes]) -> None:
        """Sends 101; what follows on the connection is no HTTP, and its cut must not look like its end."""
        self._framing = Framing(BodyKind.UNTIL_CLOSE)
        self.started = True
        self.keep_alive = False
        await self._write(head_octets(b"HTTP/1.1 101 " + reason, lines))

    async def informational(self, head: ResponseHead) -> None:
        """Passes an interim response on; HTTP/1.0 clients get none (RFC 9110 §15.2)."""
        if self.head.version >= (1, 1) and not self.started:
            await self._write(answer.interim_head(head))

    async def send(self, data: bytes) -> None:
        """Sends octets of the answer's body and waits while the client does not read."""
        self.octets_out += len(data)
        await self._write(encode_chunk(data) if self._framing.kind is BodyKind.CHUNKED else data)

    def hurry(self, crowded: Callable[[], bool]) -> None:
        """Has the client make room if it takes its answer too slowly while others wait, as `crowded` tells."""
        self._crowded = crowded

    async def end(self) -> None:
        """Ends the answer's body."""
        self._crowded = None  # it knows the exchange, which knows this: a circle would wait for the garbage collector
        if self._framing.kind is BodyKind.CHUNKED and self.head.method != b"HEAD":
            await self._write(LAST_CHUNK)

    def abort(self) -> None:
        """Cuts the connection, so that the client sees that its answer is not whole.

        A body that lasts until the connection ends would look whole after an orderly end: it is reset instead.
        """
        self.keep_alive = False
        self._crowded = None  # as in `end`
        if (transport := self._wire.transport) is not None:
            if self.started and self._framing.kind is BodyKind.UNTIL_CLOSE:
                reset(transport)
            else:
                abort(transport)

    async def _write(self, data: bytes) -> None:
        """Writes, and waits for the client to take it: at any speed, but not for one that takes nothing."""
        try:
            async with asyncio.timeout(None) as bound:
                self._look_again(bound, None, 0.0)
                try:
                    await self._wire.write(data)
                finally:
                    if self._look is not None:
                        self._look.cancel()
        except TimeoutError:
            self.abort()
            raise ClientGone(self._given_up) from None
        except ConnectionError as error:
            raise ClientGone from error

    def _look_again(self, bound: asyncio.Timeout, before: int | None, still_s: float) -> None:
        """Looks later; `before` is what the client had not taken at the last look, and `still_s` since when it takes nothing."""
        self._look = self._loop.call_later(self._look_s, self._look_at_progress, bound, before, still_s)

    def _look_at_progress(self, bound: asyncio.Timeout, before: int | None, still_s: float) -> None:
        self._waited_s += self._look_s
        left, idle_s = self._wire.untaken(), self.limits.write_idle_timeout_s
        still_s = still_s + self._look_s if before is not None and left >= before else 0.0
        if idle_s and still_s >= idle_s:
            bound.reschedule(self._loop.time())
        elif self._crowded is not None and too_slow(self.octets_out - left, self._waited_s) and self._crowded():
            self._given_up = LAGGING
            bound.reschedule(self._loop.time())
        else:
            self._look_again(bound, left, still_s)


class RequestBody:
    """A request's body on its way to the upstream; its start is held, so that a small body can be sent again."""

    def __init__(
        self,
        client: ClientStream,
        framing: Framing,
        *,
        hold_octets: int,
        limit_octets: int,
        on_read: Callable[[int], None],
        crowded: Callable[[], bool],
    ) -> None:
        """`crowded` tells whether other requests wait for what this one holds."""
        self._client = client
        self._crowded = crowded
        self._loop = asyncio.get_running_loop()
        self._waited_s = 0.0  # for the client, in all
        self._since_s = 0.0  # when the read under way began; with it, its bound and the next look at its pace
        self._bound: asyncio.Timeout | None = None
        self._look: asyncio.TimerHandle | None = None
        self._chunked = framing.kind is BodyKind.CHUNKED
        self._hold_octets = hold_octets
        self._limit_octets = limit_octets
        self._on_read = on_read
        self._pieces: list[bytes] = []
        self._octets = 0
        self._pump: asyncio.Task[None] | None = None
        self.exists = self._chunked or (framing.kind is BodyKind.LENGTH and framing.length > 0)
        self.complete = not self.exists
        self.held = True  # all that was read so far is held: the body can start again

    def resume(self, pieces: list[bytes] | None, octets: int, *, complete: bool) -> None:
        """Takes up a body of which so many octets were sent already; `pieces` holds them, None if they were let go."""
        self._pieces = pieces or []
        self._octets = octets
        self.held = pieces is not None
        self.complete = complete

    def start(
        self, exchange: Exchange, tasks: Tasks, *, write_timeout_s: float, rest: bool = False
    ) -> asyncio.Task[None]:
        """Starts to send the body, or its `rest`; the task ends when all of it was sent. One at a time."""
        held = [] if rest else list(self._pieces)
        self._pump = tasks.start(self._send_all(exchange, held, write_timeout_s), name="request body")
        return self._pump

    async def stop(self) -> None:
        """Stops sending, if it still goes on."""
        pump, self._pump = self._pump, None
        if pump is not None and not pump.done():
            pump.cancel()
            await asyncio.wait({pump})

    async def _send_all(self, exchange: Exchange, held: list[bytes], write_timeout_s: float) -> None:
        """Sends first what is held, then what comes from the client."""
        for piece in held:
            await self._send(exchange, piece, write_timeout_s)
        while not self.complete:
            data = await self._read()
            if not data:
                self.complete = True
                break
            self._octets += len(data)
            self._on_read(len(data))
            if self._limit_octets and self._octets > self._limit_octets:
                raise Refusal(Problem.BODY_TOO_LARGE)
            if self.held and self._octets <= self._hold_octets:
                self._pieces.append(data)
            else:
                self.held = False
                self._pieces.clear()
            await self._send(exchange, data, write_timeout_s)
        if self._chunked:
            await exchange.send(LAST_CHUNK, timeout_s=write_timeout_s)
        exchange.end_body()

    async def _read(self) -> bytes:
        """Reads on. Raises Refusal(REQUEST_TIMEOUT) if the client is slow while others wait, else as the client does."""
        self._since_s = self._loop.time()
        try:
            async with asyncio.timeout(None) as self._bound:
                self._look = self._loop.call_later(_PACE_LOOK_S, self._look_at_pace)
                data = await self._client.read()
        except TimeoutError:
            raise slow() from None
        finally:
            self._waited_s += self._loop.time() - self._since_s
            if self._look is not None:
                self._look.cancel()
            self._look = self._bound = None
        if data and self._too_slow(self._waited_s):
            raise slow()
        return data

    def _look_at_pace(self) -> None:
        """Ends a read that is too slow, or looks again later."""
        # A method: a function inside `_read` that names itself would be a cycle, and would keep the whole request, held
        # octets included, until the garbage collector runs.
        if self._bound is None:
            return
        now_s = self._loop.time()
        if self._too_slow(self._waited_s + now_s - self._since_s):
            self._bound.reschedule(now_s)
        else:
            self._look = self._loop.call_later(_PACE_LOOK_S, self._look_at_pace)

    def _too_slow(self, waited_s: float) -> bool:
        return too_slow(self._octets, waited_s) and self._crowded()

    async def _send(self, exchange: Exchange, data: bytes, timeout_s: float) -> None:
        await exchange.send(encode_chunk(data) if self._chunked else data, timeout_s=timeout_s)


def too_slow(octets: int, waited_s: float) -> bool:
    """Tells whether a body comes more slowly than others can be asked to wait; `waited_s` is how long it was waited for."""
    return waited_s >= SLOW_START_S and octets < MIN_RATE * waited_s


def slow() -> Refusal:
    """Returns the refusal of such a body."""
    return Refusal(Problem.REQUEST_TIMEOUT, "the request body comes too slowly while others wait")
