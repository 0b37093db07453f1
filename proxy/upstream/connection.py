"""One connection to an upstream, one exchange at a time on it: an ``asyncio.Protocol`` that calls back into a ``Sink``.

Everything is synchronous: no task, no future and no timer belongs to an exchange; deadlines are the caller's, who ends
what takes too long by ``fail``. Response bodies pass through as they come, without a copy where their length was
declared. Whatever leaves a doubt about where a response ends, or for whom it was, closes the connection: an answer
belongs to the request it was asked for. A 101 that was asked for ends HTTP on it, and the transport is given away.

Source: RFC 9112 §6 (framing), §9 (connections); RFC 9110 §7.8, §15.2 (interim responses); RFC 9209 §2.3 (error types).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import cast

from proxy.errors import GatewayError
from proxy.gathering import GatheredTransport, Turn
from proxy.http1 import switching
from proxy.http1.framing import BodyKind, ChunkedDecoder, Framing
from proxy.http1.wire import ResponseHead, find_head_end, parse_response_head
from proxy.transports import arrivals, ended_cleanly, remains
from proxy.upstream import failures
from proxy.upstream.persistence import course
from proxy.upstream.sink import Owner, Sink
from proxy.upstream.state import CHUNKED, CLOSED, HEAD, IDLE, LENGTH, LENT, SWITCHED, UNTIL_CLOSE

_MAX_INTERIM = 16  # responses before the final one; Go's client had 5, some servers send one 102 every few seconds


class UpstreamConnection(asyncio.Protocol):
    """A connection. `opened_with` is the TLS context that opened it; `reused` tells that it answered before."""

    __slots__ = (
        "_body_open", "_buffer", "_decoder", "_heard", "_interim", "_keep", "_left", "_max_fields", "_max_head_octets", "_method", "_owner",
        "_paused", "_poll", "_sink", "_socket", "_state", "_transport", "_turn", "_unwritable", "_upgrade", "followed", "opened_with", "reused",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        connected: socket.socket,
        *,
        opened_with: ssl.SSLContext | None,
        turn: Turn,
        max_head_octets: int,
        max_fields: int,
    ) -> None:
        """`connected` is the transport's socket; `turn` says when heads are sent."""
        self.reused = False
        self.followed = False  # octets of the body have come with the head that the sink is being told of
        self.opened_with = opened_with
        self._owner = owner
        self._socket = connected
        self._turn = turn
        self._max_head_octets = max_head_octets
        self._max_fields = max_fields
        self._transport: GatheredTransport
        self._state = IDLE
        self._sink: Sink | None = None
        self._method = b""
        self._upgrade = b""  # what the request asked to switch to
        self._body_open = False  # the request body is not yet whole
        self._unwritable = False
        self._paused = False
        self._heard = False  # an octet came since the request was sent
        self._interim = 0
        self._buffer: bytes | bytearray = b""  # an unfinished head
        self._keep = False  # the response leaves the connection open
        self._left = 0  # octets to come, in a body of known length
        self._decoder: ChunkedDecoder
        self._poll = arrivals(connected)

    # ---- the exchange, from the side of whoever sends the request

    @property
    def closed(self) -> bool:
        """Tells whether the connection can serve no more."""
        return self._state is CLOSED

    @property
    def reusable(self) -> bool:
        """Tells whether another exchange may follow: none is under way and the last one left no doubt."""
        return self._state is IDLE

    def quiet(self) -> bool:
        """Tells whether an idle connection is fit for use at this very moment: nothing has come unasked. One system call."""
        return self._state is IDLE and not self._transport.is_closing() and not self._poll(0)

    def _still_quiet(self) -> bool:
        """Tells likewise, just before a held head is written. A fresh connection may hold TLS's session tickets."""
        if self._state is HEAD and self.reused and self._poll(0):
            self.fail(failures.not_sent())
            return False
        return True

    def start(self, head: bytes, *, method: bytes, sink: Sink, body_expected: bool, upgrade: bytes = b"") -> None:
        """Sends a request's head; octets of a body may follow in the same piece. `upgrade` is its Upgrade field, if any.

        With `body_expected`, more follows by `write` until `end_body`. Raises GatewayError(CONNECTION_TERMINATED,
        retry=NOTHING_SENT) if the connection was closed since it was acquired.
        """
        assert self._state is IDLE or self._state is CLOSED, "one exchange at a time"
        if self._state is CLOSED or self._transport.is_closing():
            self.abort()
            raise failures.not_sent()
        self._sink = sink
        self._method = method
        self._upgrade = upgrade
        self._body_open = body_expected
        self._heard = False
        self._interim = 0
        self._state = HEAD
        self._transport.write(head)

    def hand_to(self, sink: Sink) -> bool:
        """Lets another sink have the rest of the exchange, also from within a sink's call; tells if it is to hold back."""
        self._sink = sink
        return self._unwritable

    def write(self, data: bytes) -> None:
        """Sends octets of the request body. Ignored once the exchange is over: they must not begin the next one."""
        self._transport.flush()  # which may find that it is over
        if self._body_open and self._state is not CLOSED:
            try:
                self._transport.write_now(data)
            except RuntimeError as error:  # uvloop: "the handler is closed" (uvloop#68, #506)
                self._lost(error)

    def end_body(self) -> None:
        """Tells that the request body was written as a whole. O(1); nothing is sent."""
        self._body_open = False

    def pause_reading(self) -> None:
        """Stops reading, since the sink cannot take more. Idempotent."""
        if not self._paused and self._state is not CLOSED:
            self._paused = True
            with suppress(RuntimeError):  # as in `write`
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again. Idempotent."""
        if self._paused:
            self._paused = False
            if self._state is not CLOSED and not self._transport.is_closing():
                with suppress(RuntimeError):
                    self._transport.resume_reading()

    def lend(self, least: int) -> tuple[socket.socket, int] | None:
        """Lets the caller read so many octets, the rest of a body, off the socket until `take_back` or `fail`.

        None if there are less than `least`, or not known how many, or under TLS, or while the transport may break by itself.
        """
        bare = self._state is LENGTH and self.opened_with is None
        if not bare or self._left < least or self._unsent() or self._transport.is_closing():
            return None
        self.pause_reading()
        self._state = LENT
        return self._socket, self._left

    def take_back(self, left: int) -> None:
        """Reads on where the caller has stopped: so many octets of the body are still to come."""
        assert self._state is LENT
        self._state, self._left = LENGTH, left
        if left:
            self.resume_reading()
        else:
            self._end(extra=bool(self._poll(0)))

    def abort(self) -> None:
        """Closes the connection at once, whatever is under way; the sink hears nothing. Idempotent.

        Nothing is flushed and nothing more is read: under TLS, `close` on a half-read response would go on
        downloading it (uvloop#471).
        """
        self._sink = None
        self._shut(at_once=True)

    def close(self) -> None:
        """Closes a connection without an exchange, under TLS with a goodbye; `abort` otherwise."""
        self._shut(at_once=self._state is not IDLE)

    def fail(self, error: GatewayError) -> None:
        """Closes the connection at once; the sink of the exchange under way, if any, gets `error`."""
        sink, self._sink = self._sink, None
        self._shut(at_once=True)
        if sink is not None:
            sink.on_error(error)

    def give_away(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes, socket.socket]:
        """Lets another protocol have the transport after a 101; returns it, the octets behind the 101, and the socket.

        Nothing is read until it is resumed. Whoever has it calls `connection_lost` at its end.
        """
        assert self._state is SWITCHED, "a 101 came"
        self._sink = None
        self._transport.set_protocol(protocol)
        return self._transport.released(), bytes(self._buffer), self._socket

    # ---- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes the transport."""
        self._transport = GatheredTransport(cast("asyncio.Transport", transport), self._turn, self._still_quiet)

    def data_received(self, data: bytes) -> None:
        """Reads on in the response."""
        state = self._state
        if state is HEAD and not self._transport.held:
            self._read_head(data)
        elif state is LENGTH:
            self._read_length(data)
        elif state is CHUNKED:
            self._read_chunks(data)
        elif state is UNTIL_CLOSE:
            assert self._sink is not None
            self._sink.on_data(data)
        elif state is SWITCHED:  # TLS may hand out some more after a pause
            self._buffer = bytes(self._buffer) + data
        elif state is not CLOSED:  # idle, or its request waits to be sent: asked for by nobody, so for nobody
            self.fail(failures.not_sent())

    def eof_received(self) -> None:
        """Ends what may end here: an idle connection, or a body that lasts until now."""
        if self._state is UNTIL_CLOSE and ended_cleanly(self._transport.inner):
            self._end()
        else:
            self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Delivers what had arrived before the loss, then tells whether that was all."""
        if self._state is not CLOSED:
            self._salvage()
            self._lost(exc)
        self._sink = self._transport.fit = None  # the latter leads back here
        self._owner.connection_gone(self)

    def pause_writing(self) -> None:
        """Passes the upstream's slowness on."""
        self._unwritable = True
        if self._sink is not None:
            self._sink.on_unwritable()

    def resume_writing(self) -> None:
        """Passes on that it is over."""
        self._unwritable = False
        if self._sink is not None:
            self._sink.on_writable()

    # ---- the response

    def _read_head(self, data: bytes) -> None:
        """Reads interim heads and the final one, then what follows it in the same piece."""
        self._heard = True
        start = 0
        buffer = self._buffer
        if buffer:
            assert isinstance(buffer, bytearray)
            start = max(0, len(buffer) - 3)
            buffer += data
        else:
            buffer = data
        while True:
            end = find_head_end(buffer, start)
            if max(end, 0) > self._max_head_octets or (end < 0 and len(buffer) >= self._max_head_octets):
                self.fail(failures.head_too_large())
                return
            if end < 0:
                self._buffer = buffer if isinstance(buffer, bytearray) else bytearray(buffer)
                return
            data = bytes(buffer)  # no copy, unless it came in pieces
            buffer = data[end:]
            start = 0
            try:
                head = parse_response_head(data[:end], max_fields=self._max_fields)
                if head.status >= 200:
                    framing, self._keep = course(head, self._method)
                    break
            except GatewayError as error:
                self.fail(error)
                return
            if head.status == 101:
                self._switched(head, rest=buffer)
                return
            self._interim_head(head)
            if self._state is not HEAD:
                return
        self._buffer = b""
        self._begin_body(head, framing, rest=buffer)

    def _interim_head(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            self.fail(failures.malformed("too many interim responses"))
        elif head.status != 100:  # which answers Expect, and that is between each two neighbours
            assert self._sink is not None
            self._sink.on_informational(head)

    def _switched(self, head: ResponseHead, *, rest: bytes) -> None:
        """Ends HTTP on this connection, and holds still until it is given away."""
        if not switching.granted(head, self._upgrade):
            self.fail(failures.malformed("switched protocols unasked"))
            return
        assert self._sink is not None
        self._state = SWITCHED
        self._buffer = rest
        self.pause_reading()
        self._sink.on_head(head, Framing(BodyKind.UNTIL_CLOSE))

    def _begin_body(self, head: ResponseHead, framing: Framing, *, rest: bytes) -> None:
        sink = self._sink
        assert sink is not None
        if framing.kind is BodyKind.CHUNKED:
            self._decoder = ChunkedDecoder()
            self._state = CHUNKED
        elif framing.kind is BodyKind.UNTIL_CLOSE:
            self._keep = False
            self._state = UNTIL_CLOSE
        else:
            self._left = framing.length  # 0 where there is no body
            self._state = LENGTH
        self.followed = bool(rest)
        sink.on_head(head, framing)
        if self._state is LENGTH and self._left == 0:
            self._end(extra=bool(rest))
        elif rest:
            self.data_received(rest)

    def _read_length(self, data: bytes) -> None:
        sink = self._sink
        assert sink is not None
        left = self._left = self._left - len(data)
        if left > 0:
            sink.on_data(data)
            return
        sink.on_data(data[:left] if left else data)
        if self._state is LENGTH:  # the sink may have aborted
            self._end(extra=left < 0)

    def _read_chunks(self, data: bytes) -> None:
        assert self._sink is not None
        decoder = self._decoder
        try:
            pieces = decoder.feed(data)
        except ValueError as error:
            self.fail(failures.malformed(f"chunked coding: {error}"))
            return
        if pieces:
            self._sink.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if decoder.done and self._state is CHUNKED:
            self._end(extra=decoder.beyond > 0)

    def _end(self, *, extra: bool = False) -> None:
        """Ends the exchange. The last thing done in a callback: the sink may begin another one from on_end."""
        sink, self._sink = self._sink, None
        assert sink is not None
        self.reused = True
        if extra or self._unsent():  # the request as well must be over: its rest would become part of the next one
            self._shut(at_once=True)
        elif self._keep and not self._transport.is_closing():
            self._state = IDLE
            self.resume_reading()  # what is paused here would never be heard closing
        else:
            self._shut(at_once=False)
        sink.on_end()

    def _unsent(self) -> bool:
        """Tells whether some of the request is still to be sent."""
        return self._body_open or self._unwritable or self._transport.get_write_buffer_size() > 0

    # ---- the end of the connection

    def _lost(self, cause: Exception | None) -> None:
        """Fails the exchange under way, if any: the connection is at its end, and the response is not."""
        if self._state is IDLE:
            self._shut(at_once=False)
        elif self._transport.held:
            self.fail(failures.not_sent(cause))
        elif self._state is not CLOSED:
            self.fail(failures.cut(cause) if self._heard else failures.unanswered(cause, reused=self.reused))

    def _shut(self, *, at_once: bool) -> None:
        known, self._state = self._state is CLOSED, CLOSED  # first: closing may call back with data
        (self._transport.abort if at_once else self._transport.close)()
        if not known:
            self._owner.connection_closed(self)

    def _salvage(self) -> None:
        """Delivers what had arrived when the connection broke."""
        if self._state in {IDLE, LENT, SWITCHED}:
            return
        for data in remains(self._transport.inner, self._socket):
            if data:
                self.data_received(data)
            elif self._state is UNTIL_CLOSE and self._transport.get_extra_info("ssl_object") is not None:
                self._end()  # by close_notify; without TLS it may as well follow a reset, so it proves nothing
            if self._state in {IDLE, CLOSED}:
                return
