"""Where a message's body ends: decided once from the head, and the chunked coding in both directions.

The one place that reads Content-Length and Transfer-Encoding. Whatever two recipients could frame differently is
refused (request smuggling); nothing is repaired.

Source: RFC 9112 §6 (message body), §7 (transfer codings); RFC 9110 §8.6.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.http1.fields import OWS, TOKEN, VALUE, Known
from proxy.units import KIB

MAX_CHUNK_LINE = 4 * KIB  # octets of one chunk's size and extensions
MAX_TRAILERS = 8 * KIB  # octets of the trailer section
MAX_EXTENSIONS = 16 * KIB  # octets of chunk lines beyond what their data accounts for, as in Go (CVE-2023-39326)
LAST_CHUNK = b"0\r\n\r\n"

_MAX_LENGTH = 2**63 - 1  # what every recipient can count to
_MAX_DIGITS = len(str(_MAX_LENGTH))

_CODING = re.compile(TOKEN + rb"++")
_PLAIN_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,6})\r\n"
)  # one without extensions, of a size that may lie in the same piece
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*+;%b*+)?" % VALUE)
_TRAILER_LINE = re.compile(rb"%b++:%b*+" % (TOKEN, VALUE))


class BodyKind(Enum):
    """How the end of a body is known."""

    NONE = "none"
    LENGTH = "content-length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Framing(NamedTuple):
    """A message body's framing; `length` counts octets and has a meaning for LENGTH alone."""

    kind: BodyKind
    length: int = 0


_NO_BODY = Framing(BodyKind.NONE)
_CHUNKED = Framing(BodyKind.CHUNKED)
_UNTIL_CLOSE = Framing(BodyKind.UNTIL_CLOSE)


class _FaultyFramingError(Exception):
    """Framing that two recipients could read differently."""


class _UnknownCodingError(Exception):
    """A transfer coding other than chunked."""


def request_framing(version: tuple[int, int], found: Known) -> Framing:
    """Returns a request's framing: NONE, LENGTH or CHUNKED.

    Raises Refusal(BAD_REQUEST) for both framing fields, a repeated or malformed Content-Length, a malformed
    Transfer-Encoding or one in HTTP/1.0; Refusal(NOT_IMPLEMENTED) for a transfer coding other than chunked.
    """
    try:
        return _declared(version, found) or _NO_BODY
    except _FaultyFramingError as fault:
        raise Refusal(Problem.BAD_REQUEST, str(fault)) from None
    except _UnknownCodingError:
        raise Refusal(Problem.NOT_IMPLEMENTED, "unknown transfer coding") from None


def response_framing(*, method: bytes, status: int, version: tuple[int, int], found: Known) -> Framing:
    """Returns the framing of the response to a request with this method (RFC 9112 §6.3).

    A response without a body by its method or status has none whatever its fields say, but a length that is none is
    refused there too, since it is passed on; one that declares nothing ends with its connection. Raises
    GatewayError(HTTP_PROTOCOL_ERROR, UPSTREAM) for what `request_framing` refuses.
    """
    try:
        if method == b"HEAD" or status < 200 or status in (204, 304):
            for length in found.get(b"content-length", ()):
                _length(length)
            return _NO_BODY
        return _declared(version, found) or _UNTIL_CLOSE
    except (_FaultyFramingError, _UnknownCodingError) as fault:
        detail = str(fault) or "unknown transfer coding"
        raise GatewayError(ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM, detail) from None


def _declared(version: tuple[int, int], found: Known) -> Framing | None:
    """Returns the framing that the fields declare; None if they declare none."""
    lengths, codings = found.get(b"content-length"), found.get(b"transfer-encoding")
    if lengths is not None and len(lengths) > 1:
        raise _FaultyFramingError("repeated Content-Length")
    if codings is not None:
        if lengths is not None:
            raise _FaultyFramingError("Content-Length and Transfer-Encoding")
        if version < (1, 1):
            raise _FaultyFramingError("Transfer-Encoding in HTTP/1.0")
        return _CHUNKED if codings == [b"chunked"] else _coded(b",".join(codings))
    if lengths is None:
        return None
    return Framing(BodyKind.LENGTH, _length(*lengths))


def _length(length: bytes) -> int:
    if not length.isdigit() or len(length) > _MAX_DIGITS or (octets := int(length)) > _MAX_LENGTH:
        raise _FaultyFramingError("malformed Content-Length")
    return octets


def _coded(codings: bytes) -> Framing:
    members = [member for part in codings.lower().split(b",") if (member := part.strip(OWS))]
    if members == [b"chunked"]:
        return _CHUNKED
    if not members or not all(map(_CODING.fullmatch, members)) or b"chunked" in members[:-1]:
        raise _FaultyFramingError("malformed Transfer-Encoding")
    raise _UnknownCodingError


def encode_chunk(data: bytes) -> bytes:
    """Returns the data as one chunk; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class _Expect(Enum):
    SIZE = "a chunk's size line"
    DATA = "a chunk's data"
    DATA_END = "the line end after a chunk's data"
    TRAILER = "a trailer line, or the empty line that ends the body"
    NOTHING = "nothing: the body has ended"


class ChunkedDecoder:
    """Decodes a chunked body piece by piece, however it was cut; extensions and trailers are bounded and dropped.

    `done` tells that the body has ended, `beyond` how many octets came after its end. Body octets are passed on as they
    come, so memory is bounded by one line. After an error the decoder must not be fed again.
    """

    __slots__ = ("_excess", "_expect", "_kept", "_left", "_trailer_octets", "beyond")

    def __init__(self) -> None:
        self._expect = _Expect.SIZE
        self._kept = b""  # the start of a line whose end has not come yet
        self._left = 0  # octets of the present chunk still to come
        self._excess = 0  # octets of chunk lines that no data accounts for
        self._trailer_octets = 0
        self.beyond = 0

    @property
    def done(self) -> bool:
        """Tells whether the body has ended, trailers included."""
        return self._expect is _Expect.NOTHING

    def feed(self, data: bytes, at: int = 0) -> list[bytes]:
        """Takes the next octets of the message, those from `at` on, and returns the body's octets in them.

        Raises ValueError if they are not the chunked coding (RFC 9112 §7.1): any size but plain hexadecimal digits, any
        line end but CRLF, a control in an extension or trailer, a size beyond 2**63 - 1, a line or trailers too long.
        """
        pieces: list[bytes] = []
        if self._kept:
            data, at = self._kept + data[at:], 0
            self._kept = b""
        end = len(data)
        while at < end:
            match self._expect:
                case _Expect.DATA:
                    piece = data[at : at + self._left]
                    pieces.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                    if not self._left:
                        self._expect = _Expect.DATA_END
                case _Expect.NOTHING:
                    self.beyond += end - at
                    break
                case _Expect.DATA_END:
                    if not b"\r\n".startswith(data[at : at + 2]):
                        raise ValueError("a chunk is longer than its size says")
                    if end - at < 2:
                        self._kept = data[at:]
                        break
                    at = _plain_chunks(data, at + 2, pieces)
                    self._expect = _Expect.SIZE
                case _:
                    line = self._line(data, at)
                    if line is None:
                        self._kept = data[at:]
                        break
                    at += len(line) + 2
                    self._take(line)
        return pieces

    def _line(self, data: bytes, at: int) -> bytes | None:
        """Returns the line that begins here, without CRLF; None if its end has not come yet."""
        sizes = self._expect is _Expect.SIZE
        room = MAX_CHUNK_LINE if sizes else MAX_TRAILERS - self._trailer_octets
        stop = data.find(b"\r\n", at, at + room + 2)
        if stop >= 0:
            return data[at:stop]
        if len(data) - at > room + 1:
            raise ValueError("a chunk line is too long" if sizes else "the trailers are too long")
        if data.find(b"\n", at) >= 0:
            raise ValueError("a line ends without CR")  # at once: the rest of it may never come
        return None

    def _take(self, line: bytes) -> None:
        """Takes one whole line: a chunk's size, a trailer, or the end."""
        if self._expect is _Expect.SIZE:
            match = _CHUNK_LINE.fullmatch(line)
            if match is None or (size := int(match[1], 16)) > _MAX_LENGTH:
                raise ValueError("malformed chunk size or extension")
            self._excess = max(0, self._excess + len(line) - 16 - 2 * size)
            if self._excess > MAX_EXTENSIONS:
                raise ValueError("the chunk extensions are too long")
            self._left = size
            self._expect = _Expect.DATA if size else _Expect.TRAILER
        elif not line:
            self._expect = _Expect.NOTHING
        elif _TRAILER_LINE.fullmatch(line) is None:
            raise ValueError("malformed trailer")
        else:
            self._trailer_octets += len(line) + 2


def _plain_chunks(data: bytes, at: int, pieces: list[bytes]) -> int:
    """Takes the whole chunks without extensions that begin here, however many and small; returns where they end."""
    while (size_line := _PLAIN_CHUNK.match(data, at)) is not None:
        start = size_line.end()
        stop = start + int(size_line[1], 16)
        if stop == start or not data.startswith(b"\r\n", stop):
            break
        pieces.append(data[start:stop])
        at = stop + 2
    return at
