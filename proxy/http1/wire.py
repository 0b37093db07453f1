"""Heads: the octets of a request's or response's first part, to values and back.

Parsing is strict and takes two passes of compiled patterns over the head, both linear on any input: every quantifier is
possessive, so nothing is tried twice. What is read is kept byte for byte, obs-text included. What is written always says
HTTP/1.1, this gateway's own version, and never holds a line break that is not ours. Bodies are not read here.

Source: RFC 9112 §2-§5 (messages, request line, status line, fields), RFC 9110 §9 (methods).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.http1.fields import CREDENTIALS, OWS, TOKEN, VALUE, Field, Fields, Known, known
from proxy.http1.framing import Framing
from proxy.memo import Memo
from proxy.units import KIB

METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS "  # RFC 9110, without CONNECT and TRACE
    b"PATCH QUERY "  # RFC 5789, the QUERY method
    b"PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK "  # RFC 4918
    b"REPORT CHECKOUT MERGE MKACTIVITY "  # RFC 3253: those that Subversion uses, and that aiohttp's parser knows
    b"ACL SEARCH BIND UNBIND REBIND".split()  # RFC 3744, 5323, 5842
)
"""The methods that the gateway forwards; any other is 501. Names are case-sensitive."""

_MAX_LEADING_CRLF = 8  # octets: four empty lines before a request, as some clients send after a body (RFC 9112 §2.2)

_REQUEST_LINE = re.compile(rb"(?:\r\n){0,4}+(%b++) ([!-~]++) HTTP/([0-9]\.[0-9])\r\n" % TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (%b*+))?\r\n" % VALUE)
# One whole line each; that every line matched is told by counting, which spares a separate validating pass. The first is
# for heads without white space at the end of a line, that is nearly all; a pattern that trims would not be linear.
_FIELD_LINE = re.compile(rb"^(%b++):[ \t]*+(%b*+)(?<![ \t])\r\n" % (TOKEN, VALUE), re.MULTILINE)
_UNTRIMMED_LINE = re.compile(rb"^(%b++):[ \t]*+(%b*+)\r\n" % (TOKEN, VALUE), re.MULTILINE)
MAX_DERIVED = 16
_MEMO_SECTIONS = 512  # header sections remembered, each of so many octets at most
_MEMO_HEADS = 256  # heads of responses
_MEMO_OCTETS = 2 * KIB
_BARE_LF = re.compile(rb"(?<!\r)\n")

_VERSIONS = {b"1.1": (1, 1), b"1.0": (1, 0)}
_HTTP_10, _HTTP_11 = (1, 0), (1, 1)

# Of these a second line would leave open which one counts (RFC 9110 §5.3); Date, Server and the like harm no one.
_SINGLETONS = frozenset(
    {b"content-length", b"content-location", b"content-range", b"content-type", b"etag", b"location", b"max-forwards"}
)
# Likewise of these in a request; some readers refuse it, the parser of the general path among them.
_SINGLE_ASKED = _SINGLETONS | {b"server", b"user-agent"}
_T = TypeVar("_T")
_REPEATED = "a repeated field that may stand only once"


_UNKEPT: dict[Any, Any] = {}  # of a head that nobody remembers


def keep_derived(derived: dict[object, _T], by: object, what: _T) -> None:
    """Keeps what was derived, in place of the oldest if there are MAX_DERIVED already: those may be used no more."""
    if derived is _UNKEPT:
        return
    if len(derived) >= MAX_DERIVED:
        del derived[next(iter(derived))]
    derived[by] = what


class FieldSection:
    """The field lines of a head, parsed; never changed. Clients send the same ones again and again (``_section``).

    `derived` keeps what others derive from nothing but the lines, by who derived it: at most MAX_DERIVED of them.
    """

    __slots__ = ("derived", "fields", "known")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.known: Known = known(fields)
        self.derived: dict[object, object] = _UNKEPT


class _Head:
    """What both heads hold. Plain classes, because one is made for each message: a third of a frozen dataclass's time."""

    __slots__ = ("fields", "known", "version")

    def __init__(self, version: tuple[int, int], fields: Fields) -> None:
        self.version = version
        self.fields = fields
        self.known: Known = known(fields)


class RequestHead(_Head):
    """A request's head."""

    __slots__ = ("derived", "method", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: tuple[int, int],
        fields: Fields,
        section: FieldSection | None = None,
    ) -> None:
        """`section` is the fields' own, where it was made before."""
        self.method = method
        self.target = target  # as received: visible ASCII
        if section is None:
            section = FieldSection(fields)
        self.version = version
        self.fields = section.fields
        self.known = section.known
        self.derived = section.derived

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestHead) and self._parts() == other._parts()

    def _parts(self) -> tuple[object, ...]:
        return self.method, self.target, self.version, self.fields

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def __repr__(self) -> str:  # fields and query hold secrets
        path = self.target.partition(b"?")[0]
        return f"RequestHead({self.method!r}, {path!r}, {self.version}, {len(self.fields)} fields)"


class ResponseHead(_Head):
    """A response's head. An upstream says the same again and again, so what follows from a head is kept with it."""

    __slots__ = ("_octets", "clear_of", "course", "derived", "reason", "status")

    def __init__(
        self, version: tuple[int, int], status: int, reason: bytes, fields: Fields, octets: bytes | None = None
    ) -> None:
        self.status = status  # 100 to 599
        self.reason = reason  # may be empty; may hold obs-text
        self._octets = octets  # as received
        self.derived: dict[object, object] = _UNKEPT  # as in `FieldSection`, from the whole head
        self.course: tuple[Framing, bool] | None = None  # how it ends, and if another may follow; but to HEAD
        self.clear_of: object = None  # the mark of the token that it was last seen not to show
        super().__init__(version, fields)

    def holds(self, text: bytes) -> bool:
        """Tells whether a text stands anywhere in the head."""
        octets = self._octets
        if octets is None:
            octets = self._octets = response_head(self.status, self.reason, self.fields)
        return text in octets

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseHead) and self._parts() == other._parts()

    def _parts(self) -> tuple[object, ...]:
        return self.version, self.status, self.reason, self.fields

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def __repr__(self) -> str:  # fields hold secrets
        return f"ResponseHead({self.version}, {self.status}, {len(self.fields)} fields)"


def find_head_end(buffer: bytes | bytearray, start: int) -> int:
    """Returns the index behind the empty line that ends a head, or -1 if it has not come yet.

    `start` says from where on the buffer is new, less three octets; empty lines before a request end no head. A line
    end without CR counts as an end too: no parser here takes such a head, and its sender may wait for an answer.
    """
    if buffer[:1] == b"\r":
        lead = 0
        while lead < _MAX_LEADING_CRLF and buffer[lead : lead + 2] == b"\r\n":
            lead += 2
        start = max(start, lead)
    end = buffer.find(b"\r\n\r\n", start)
    if end >= 0:
        return end + 4
    bare = _BARE_LF.search(buffer, start)
    return -1 if bare is None else bare.end()


def parse_request_head(data: bytes, *, max_fields: int) -> RequestHead:
    """Parses a whole request head, its empty line included; up to four empty lines before it are passed over.

    Raises Refusal(VERSION_NOT_SUPPORTED) for a version but 1.0 and 1.1, Refusal(HEAD_TOO_LARGE) for more fields than
    allowed, Refusal(BAD_REQUEST) for all else that is not the grammar: another separator than one space, a line end
    without CR, a folded line, a space before a colon, a control, a field twice that is only good for once. Methods, target and Host are judged by others.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise Refusal(Problem.BAD_REQUEST, "malformed request line")
    method, target, number = line.groups()
    version = _VERSIONS.get(number)
    if version is None:
        raise Refusal(Problem.VERSION_NOT_SUPPORTED)
    octets = data[line.end() - 2 :]  # from the end of the request line on
    section = _remembered.find(octets) or _section(octets)
    if len(section.fields) > max_fields:
        raise Refusal(Problem.HEAD_TOO_LARGE, "too many fields")
    return RequestHead(method, target, version, section.fields, section)


_remembered: Memo[bytes, FieldSection] = Memo(_MEMO_SECTIONS)


def _section(octets: bytes) -> FieldSection:
    """Parses a request's header section, and remembers a short one: that client's next request mostly brings the same."""
    fields = _fields(octets, 2)
    if fields is None:
        raise Refusal(Problem.BAD_REQUEST, "malformed header section")
    section = FieldSection(tuple(fields))
    if _repeats(section.known, _SINGLE_ASKED):
        raise Refusal(Problem.BAD_REQUEST, _REPEATED)
    keepable = len(octets) <= _MEMO_OCTETS and CREDENTIALS.isdisjoint(section.known)
    if keepable and _remembered.note(octets, section):
        section.derived = {}
    return section


def parse_response_head(data: bytes, *, max_fields: int) -> ResponseHead:
    """Parses a whole response head, its empty line included.

    Raises GatewayError(UPSTREAM): HTTP_RESPONSE_HEADER_SECTION_SIZE for more fields than allowed, HTTP_PROTOCOL_ERROR
    for a version but 1.0 and 1.1, a status outside 100 to 599, a field twice that is only good for once, and all else
    that `parse_request_head` calls malformed.
    """
    head = _remembered_heads.find(data)
    if head is not None and len(head.fields) <= max_fields:
        return head
    line = _STATUS_LINE.match(data)
    if line is None:
        raise _upstream_fault("malformed status line")
    minor, status, reason = line.groups()
    fields = _fields(data, line.end())
    if fields is None:
        raise _upstream_fault("malformed header section")
    if len(fields) > max_fields:
        raise GatewayError(ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE, Side.UPSTREAM, "too many fields")
    head = ResponseHead(_HTTP_11 if minor == b"1" else _HTTP_10, int(status), reason or b"", tuple(fields), data)
    if _repeats(head.known, _SINGLETONS):
        raise _upstream_fault(_REPEATED)
    if len(data) <= _MEMO_OCTETS and b"set-cookie" not in head.known and _remembered_heads.note(data, head):
        head.derived = {}
    return head


_remembered_heads: Memo[bytes, ResponseHead] = Memo(
    _MEMO_HEADS
)  # under load, an upstream says the same again within a second


def _repeats(found: Known, single: frozenset[bytes]) -> bool:
    for name, given in found.items():  # noqa: SIM110  # no generator: this is for every message
        if len(given) > 1 and name in single:
            return True
    return False


def _upstream_fault(detail: str) -> GatewayError:
    return GatewayError(ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM, detail)


def _fields(data: bytes, start: int) -> list[Field] | None:
    """Returns the field lines between `start` and the empty line at the end of `data`; None if one is malformed.

    Each match holds one LF and begins where a line begins, so as many matches as there are LFs means that every line
    matched as a whole.
    """
    if not data.endswith(b"\r\n\r\n"):
        return None
    stop = len(data) - 2
    lines = data.count(b"\n", start, stop)
    fields: list[Field] = _FIELD_LINE.findall(data, start, stop)
    if len(fields) == lines:
        return fields
    fields = _UNTRIMMED_LINE.findall(data, start, stop)
    return [(name, value.rstrip(OWS)) for name, value in fields] if len(fields) == lines else None


def request_head(method: bytes, target: bytes, fields: Iterable[Field]) -> bytes:
    """Returns the octets of a request head, HTTP/1.1. Raises as `head_octets` does."""
    return head_octets(b"%b %b HTTP/1.1" % (method, target), map(b": ".join, fields))


def response_head(status: int, reason: bytes, fields: Iterable[Field]) -> bytes:
    """Returns the octets of a response head, HTTP/1.1. Raises as `head_octets` does."""
    return head_octets(b"HTTP/1.1 %d %b" % (status, reason), map(b": ".join, fields))


def head_octets(first: bytes, field_lines: Iterable[bytes]) -> bytes:
    """Returns the octets of a head: its first line, its field lines (`name: value`), the empty line.

    Raises GatewayError(PROXY_INTERNAL_ERROR, GATEWAY) if anything in it holds a line break: such a head would be two.
    """
    return open_head(first, field_lines) + b"\r\n"


def open_head(first: bytes, field_lines: Iterable[bytes]) -> bytes:
    """Returns a head to which more field lines may be added, and then the empty line. Raises as `head_octets` does."""
    lines = [first, *field_lines, b""]
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise GatewayError(ErrorType.PROXY_INTERNAL_ERROR, Side.GATEWAY, "a line break inside a head")
    return head
