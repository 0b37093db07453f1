"""Follows the requests on one client connection: where each head ends and each body, whoever serves them.

Octets go on only as far as they are well-formed: a head when it is whole, within its bounds and grammatical, a body as
it comes. So the strict rules of ``http1`` hold for every request of a connection, and what aiohttp's parser would accept,
answer in words of its own, or buffer without a bound never reaches it. The first fault ends it all.

Source: RFC 9112 §2.2, §3, §6, §9.3.2 (pipelining).
"""

from __future__ import annotations

from proxy.errors import Problem, Refusal
from proxy.gateway.settings import Limits
from proxy.http1.framing import BodyKind, ChunkedDecoder, request_framing
from proxy.http1.wire import RequestHead, find_head_end, parse_request_head


class Incoming:
    """The state of one connection's input."""

    __slots__ = ("_buffer", "_chunks", "_left", "_limits", "fault", "fault_in_body", "heads")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()  # the part of a head that has come
        self._left = 0  # octets of a body with Content-Length still to come
        self._chunks: ChunkedDecoder | None = None  # in a chunked body; it only watches
        self.fault: Refusal | None = None  # nothing goes on behind it
        self.fault_in_body = False
        self.heads = 0  # that went on

    @property
    def head_under_way(self) -> bool:
        """Tells whether a part of a head has come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Takes octets and returns those that may go on; sets `fault` at the first that may not."""
        if self.fault is not None:
            return b""
        if not self._buffer and 0 < len(data) <= self._left:  # the whole of it is body, as mostly in uploads
            self._left -= len(data)
            return data
        passed: list[bytes] = []
        try:
            while data:
                data = self._step(data, passed)
        except Refusal as refusal:
            self.fault = refusal
        except ValueError:
            self.fault = Refusal(Problem.BAD_REQUEST, "malformed chunked body")
            self.fault_in_body = True
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _step(self, data: bytes, passed: list[bytes]) -> bytes:
        """Takes the next part of the input; returns the rest."""
        if self._chunks is not None:
            self._chunks.feed(data)
            if not self._chunks.done:
                passed.append(data)
                return b""
            rest = self._chunks.tail
            passed.append(data[: len(data) - len(rest)])
            self._chunks = None
            return rest
        if self._left:
            part = data[: self._left]
            self._left -= len(part)
            passed.append(part)
            return data[len(part) :]
        return self._head(data, passed)

    def _head(self, data: bytes, passed: list[bytes]) -> bytes:
        """Collects a head; passes it on when it is whole and well-formed. Empty lines before it are dropped."""
        buffer = self._buffer
        if not buffer:
            data = data.lstrip(b"\r\n") if data[:1] in {b"\r", b"\n"} else data
        start = max(0, len(buffer) - 3)
        buffer += data
        end = find_head_end(buffer, start)
        if (end if end >= 0 else len(buffer)) > self._limits.head_bytes:
            line = buffer.find(b"\r\n", 0, self._limits.head_bytes)
            raise Refusal(Problem.TARGET_TOO_LONG if line < 0 else Problem.HEAD_TOO_LARGE)
        if end < 0:
            return b""
        raw, rest = bytes(buffer[:end]), bytes(buffer[end:])
        buffer.clear()
        head = parse_request_head(raw, max_fields=self._limits.field_count)
        framing = request_framing(head.version, head.known)
        if framing.kind is BodyKind.LENGTH:
            self._left = framing.length
        elif framing.kind is BodyKind.CHUNKED:
            self._chunks = ChunkedDecoder()
        self.heads += 1
        passed.append(_without_upgrade(head) if b"upgrade" in head.known else raw)
        return rest


def _without_upgrade(head: RequestHead) -> bytes:
    """Returns the head's octets without its Upgrade fields.

    aiohttp's parser stops behind a request to upgrade and loses what was pipelined after it, so that a later body would
    be read as a request; nothing is upgraded here, as RFC 9110 §7.8 allows.
    """
    lines = [b"%b %b HTTP/%d.%d" % (head.method, head.target, *head.version)]
    lines += [name + b": " + value for name, value in head.fields if name.lower() != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
