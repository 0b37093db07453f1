"""Follows the requests on one client connection: where each head ends and each body, whoever serves them.

Octets go on only as far as they are well-formed: a head when it is whole, within its bounds and grammatical, a body as
it comes. So the strict rules of ``http1`` hold for every request of a connection, and what aiohttp's parser would accept,
answer in words of its own, or buffer without a bound never reaches it. A chunked body goes on in chunks of our own, so
that the two parsers cannot disagree about a chunk's line or a trailer. The first fault ends it all, and so does a request
that asks for the connection to close.

Source: RFC 9112 §2.2, §3, §6, §9.3.2 (pipelining), §9.6 (closing).
"""

from __future__ import annotations

from proxy.errors import Problem, Refusal
from proxy.gateway.settings import Limits
from proxy.http1 import switching
from proxy.http1.fields import persists
from proxy.http1.framing import LAST_CHUNK, BodyKind, ChunkedDecoder, encode_chunk, request_framing
from proxy.http1.wire import RequestHead, find_head_end, parse_request_head

MAX_EMPTY_LINES = 8  # octets: four empty lines before a request, as some clients send after a body (RFC 9112 §2.2)
_PLAIN = [b"chunked"]


class Incoming:
    """The state of one connection's input. No octet of it is moved more often than a fixed number of times."""

    __slots__ = (
        "_buffer", "_chunks", "_empty", "_last", "_left", "_limits", "beyond", "fault", "fault_in_body", "first", "heads", "upgrade",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()  # the part of a head that has come, if it came in more pieces than one
        self._empty = 0  # octets of empty lines before the next head
        self._left = 0  # octets of a body with Content-Length still to come
        self._chunks: ChunkedDecoder | None = None  # in a chunked body
        self._last = False  # the connection closes after the present request: what follows it is nobody's
        self.beyond = False  # some of that has come
        self.upgrade: RequestHead | None = (
            None  # the first head, if it asks for another protocol: then it did not go on
        )
        self.fault: Refusal | None = None  # nothing goes on behind it
        self.fault_in_body = False
        self.first: RequestHead | None = None  # of the heads
        self.heads = 0  # that went on

    @property
    def head_under_way(self) -> bool:
        """Tells whether a part of a head has come."""
        return bool(self._buffer)

    @property
    def body_under_way(self) -> bool:
        """Tells whether a request's head has come, and its body not as a whole."""
        return self._left > 0 or self._chunks is not None

    def feed(self, data: bytes) -> bytes:
        """Takes octets and returns those that may go on; sets `fault` at the first that may not."""
        if self.fault is not None:
            return b""
        if 0 < len(data) <= self._left:  # the whole of it is body, as mostly in uploads
            self._left -= len(data)
            return data
        passed: list[bytes] = []
        at = 0
        try:
            while at < len(data):
                at = self._step(data, at, passed)
        except Refusal as refusal:
            self.fault = refusal
        except ValueError:
            self.fault = Refusal(Problem.BAD_REQUEST, "malformed chunked body")
            self.fault_in_body = True
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _step(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Takes the next part of the input, which begins at `at`; returns where the rest begins."""
        if (chunks := self._chunks) is not None:
            pieces = chunks.feed(data, at)
            passed.append(encode_chunk(b"".join(pieces)))
            if chunks.done:
                passed.append(LAST_CHUNK)
                self._chunks = None
            return len(data) - chunks.beyond
        if self._left:
            part = data[at : at + self._left]
            self._left -= len(part)
            passed.append(part)
            return at + len(part)
        if self._last:
            self.beyond = True
            return len(data)
        if not self._buffer and (rest := self._empty_lines(data, at)) > at:
            return rest
        return self._head(data, at, passed)

    def _empty_lines(self, data: bytes, at: int) -> int:
        """Passes over line ends before a head; returns where the rest begins."""
        while at < len(data) and data[at] == b"\r\n"[self._empty % 2]:
            self._empty += 1
            at += 1
            if self._empty > MAX_EMPTY_LINES:
                raise Refusal(Problem.BAD_REQUEST, "too many empty lines")
        if at < len(data) and self._empty % 2:
            raise Refusal(Problem.BAD_REQUEST, "a line end without LF")
        return at

    def _head(self, data: bytes, at: int, passed: list[bytes]) -> int:
        """Collects a head; passes it on when it is whole and well-formed. Returns where the rest begins."""
        buffer, limit = self._buffer, self._limits.head_bytes
        if buffer:
            known = len(buffer)
            buffer += data[at : at + limit + 1 - known]
            end = find_head_end(buffer, max(0, known - 3))
            raw, rest = bytes(buffer[: max(end, 0)]), at + end - known
        else:
            end = rest = find_head_end(data, at)
            raw = data[at : max(end, 0)]
            if end < 0:
                buffer += data[at : at + limit + 1]
        if (len(raw) if end >= 0 else len(buffer)) > limit:
            line = (buffer or raw).find(b"\r\n", 0, limit)
            raise Refusal(Problem.TARGET_TOO_LONG if line < 0 else Problem.HEAD_TOO_LARGE)
        if end < 0:
            return len(data)
        buffer.clear()
        self._empty = 0
        head = parse_request_head(raw, max_fields=self._limits.field_count)
        framing = request_framing(head.version, head.known)
        hosts = len(head.known.get(b"host", ()))
        if hosts > 1 or (not hosts and head.version >= (1, 1)):
            # `decide` would say so too, but aiohttp's parser drops what stands before such a request in the same piece
            raise Refusal(Problem.BAD_REQUEST, "not exactly one Host")
        asks = b"upgrade" in head.known and bool(switching.asked(head, framing))
        if framing.kind is BodyKind.LENGTH:
            self._left = framing.length
        elif framing.kind is BodyKind.CHUNKED:
            self._chunks = ChunkedDecoder()
        self._last = asks or not persists(head.version, head.known)
        if not self.heads:
            self.first = head
        self.heads += 1
        if asks and self.heads == 1:
            self.upgrade = head
            passed.append(data[rest:])  # the other protocol's, if it is granted
            return len(data)
        needs_rewriting = (
            b"upgrade" in head.known
            or b"proxy-connection" in head.known
            or head.known.get(b"transfer-encoding", _PLAIN) != _PLAIN
        )
        passed.append(_rewritten(head, last=asks) if needs_rewriting else raw)
        return rest


def _rewritten(head: RequestHead, *, last: bool) -> bytes:
    """Returns the head's octets without its Upgrade and Proxy-Connection, and with chunked framing said in its plainest form.

    aiohttp's parser stops behind a request to upgrade and loses what was pipelined after it, so that a later body would
    be read as a request. RFC 9110 §7.8 allows to ignore Upgrade; but what a client sends behind it in good hope is none
    of HTTP's, so a request that asked is the `last` of its connection. To aiohttp's parser `Proxy-Connection: close` ends
    the connection, so that it refuses what follows; to us it is no field of HTTP (RFC 9112, Appendix C.2.2). And how
    aiohttp reads a list of codings with empty members need not be asked.
    """
    lines = [b"%b %b HTTP/%d.%d" % (head.method, head.target, *head.version)]
    lines += [
        name + b": " + value
        for name, value in head.fields
        if name.lower() not in {b"upgrade", b"proxy-connection", b"transfer-encoding"}
    ]
    if b"transfer-encoding" in head.known:
        lines.append(b"Transfer-Encoding: chunked")
    if last:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", b""])
