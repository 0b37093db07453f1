"""The front protocol: accepts a connection, bounds it, and reads its first request head.

It owns the connection caps, the first head's size and its deadline, and refuses malformed heads with our own replies.
A complete head is handed to aiohttp together with the transport, for good: no answer is being written then, the write
buffer is empty and reading is not paused, which both event loops need for a change of protocol.

Source: RFC 9112 §2.2, §3 (message parsing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate

from proxy.errors import GatewayError, Problem, Refusal
from proxy.gateway import rescue
from proxy.gateway.access import Peer
from proxy.gateway.problem import Reply, problem_reply
from proxy.gateway.settings import Limits
from proxy.http1.wire import find_head_end, parse_request_head, response_head
from proxy.metrics import GatewayMetrics

_LINE_OVERHEAD = len(b" HTTP/1.1\r\n")


class Admission:
    """How many connections are open, in all and per client address."""

    __slots__ = ("_limits", "_none_open", "_per_client", "open")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._per_client: dict[object, int] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self.open = 0

    def enter(self, peer: Peer) -> bool:
        """Counts a connection in, unless it would be one too many."""
        if self._limits.connections and self.open >= self._limits.connections:
            return False
        if self._limits.connections_per_client and peer.address is not None:
            count = self._per_client.get(peer.address, 0)
            if count >= self._limits.connections_per_client:
                return False
            self._per_client[peer.address] = count + 1
        self.open += 1
        self._none_open.clear()
        return True

    def leave(self, peer: Peer) -> None:
        """Counts a connection out."""
        self.open -= 1
        if not self.open:
            self._none_open.set()
        count = self._per_client.get(peer.address)
        if count is not None:
            if count > 1:
                self._per_client[peer.address] = count - 1
            else:
                del self._per_client[peer.address]

    async def none_open(self) -> None:
        """Waits until every connection has closed."""
        await self._none_open.wait()


class FrontProtocol(asyncio.Protocol):
    """One client connection until its first request head is complete."""

    def __init__(
        self,
        *,
        hand_over: Callable[[asyncio.Transport, bytes, Callable[[], None]], None],
        admission: Admission,
        waiting: set[FrontProtocol],
        limits: Limits,
        metrics: GatewayMetrics,
        new_request_id: Callable[[], bytes],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._hand_over = hand_over
        self._admission = admission
        self._waiting = waiting
        self._limits = limits
        self._metrics = metrics
        self._new_request_id = new_request_id
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._peer = Peer(None)
        self._entered = False
        self._buffer = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts the connection and starts the head's deadline."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not derive from asyncio's
        self._peer = Peer.from_peername(transport.get_extra_info("peername"))
        self._entered = self._admission.enter(self._peer)
        if not self._entered:
            self._refuse(problem_reply(Problem.OVERLOADED, self._new_request_id(), retry_after_s=1.0))
            return
        self._waiting.add(self)
        self._deadline = self._loop.call_later(self._limits.head_timeout_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Collects the first head; hands over when it is whole and well-formed."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        start = max(0, len(self._buffer) - 3)
        self._buffer += data
        end = find_head_end(self._buffer, start)
        if end < 0:
            if len(self._buffer) > self._limits.head_bytes:
                self._refuse_size()
            return
        if end > self._limits.head_bytes:
            self._refuse_size()
            return
        try:
            parse_request_head(bytes(self._buffer[:end]), max_fields=self._limits.field_count)
        except GatewayError as error:
            self._refuse(rescue.reply_to(error, self._new_request_id()))
            return
        self._end_waiting()
        self._transport = None
        admission, peer = self._admission, self._peer
        self._hand_over(transport, bytes(self._buffer), lambda: admission.leave(peer))

    def eof_received(self) -> bool:
        """Closes: without a whole head there is nothing to answer."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Counts the connection out."""
        self._end_waiting()
        if self._entered and self._transport is not None:
            self._admission.leave(self._peer)
        self._transport = None

    def drain(self) -> None:
        """Ends a connection that has sent no whole head yet: with 503 if it has sent a part of one."""
        if self._buffer:
            self._refuse(problem_reply(Problem.DRAINING, self._new_request_id(), retry_after_s=1.0))
        else:
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end_waiting(self) -> None:
        self._waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if self._buffer:
            self._refuse(problem_reply(Problem.REQUEST_TIMEOUT, self._new_request_id()))
        else:
            self._close()  # opened in advance and never used: nothing to answer

    def _refuse_size(self) -> None:
        line = self._buffer.find(b"\r\n", 0, self._limits.head_bytes)
        problem = Problem.TARGET_TOO_LONG if line < 0 else Problem.HEAD_TOO_LARGE
        self._refuse(rescue.reply_to(Refusal(problem), self._new_request_id()))

    def _refuse(self, reply: Reply) -> None:
        assert self._transport is not None
        if reply.problem is not None:
            self._metrics.count_refused(reply.problem)
        self._metrics.unmatched.count_request(b"", reply.status)
        self._end_waiting()
        self._transport.write(whole_reply(reply))
        self._transport.close()


def whole_reply(reply: Reply) -> bytes:
    """Returns the octets of a reply that ends its connection."""
    fields = (
        *reply.fields,
        (b"Content-Length", b"%d" % len(reply.body)),
        (b"Date", formatdate(usegmt=True).encode("ascii")),
        (b"Connection", b"close"),
    )
    return response_head(reply.status, reply.reason, fields) + reply.body
