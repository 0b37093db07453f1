"""Field lines: what they may hold, how lists in them read, and which of them end at this hop.

A field is a name as received and a value without surrounding white space, both bytes; comparing names means comparing
lower-case names. Nothing here changes a value. No message parsing (``wire``), no framing decision (``framing``).

Source: RFC 9110 §5 (fields), §7.6.1 (Connection), §11.6.1 (challenges).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]
Known = dict[bytes, list[bytes]]  # values by lower-case name, of the names in KNOWN alone

OWS = b" \t"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # one octet of a token, for other patterns
VALUE = rb"[\t\x20-\x7e\x80-\xff]"  # one octet of a value: HTAB, SP, VCHAR, obs-text

CONNECTION_SPECIFIC = frozenset(
    {
        b"connection",
        b"http2-settings",  # RFC 7540 §3.2.1: listed in Connection, and where it is not, it must not pass for it
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

CONNECTION_BOUND = frozenset({b"ntlm", b"negotiate"})  # schemes that authenticate a connection, not a request

KNOWN = CONNECTION_SPECIFIC | {
    b"authorization",
    b"content-length",
    b"content-location",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"etag",
    b"expect",
    b"host",
    b"location",
    b"max-forwards",
    b"origin",
    b"sec-fetch-site",
    b"server",
    b"set-cookie",
    b"user-agent",
    b"via",
    b"www-authenticate",
    b"x-request-id",
}
"""The names that the gateway's own rules ask for."""

CREDENTIALS = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
"""Of those, what a client proves itself by: a head with one of them is not remembered."""

_NO_OPTIONS: frozenset[bytes] = frozenset()
_MEMO_NAMES = 4096  # spellings
_MEMO_NAME_OCTETS = 64

_TOKEN_ONLY = re.compile(TOKEN + rb"++")
_VALUE_ONLY = re.compile(VALUE + rb"*+")

_SEPARATORS = re.compile(rb"[ \t,]*+")
_PARAM = re.compile(rb"(%b++)[ \t]*+=[ \t]*+(?:(%b++)|\"((?:[^\"\\]|\\.)*+)\")" % (TOKEN, TOKEN), re.DOTALL)
_SCHEME = re.compile(rb"(%b++)(?:[ \t]++|(?=,)|\Z)" % TOKEN)
_TOKEN68 = re.compile(rb"[A-Za-z0-9\-._~+/]++=*+[ \t]*+(?=,|\Z)")
_UNTIL_COMMA = re.compile(rb"(?:[^,\"]++|\"(?:[^\"\\]|\\.)*+\"?)*+", re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


def is_token(name: bytes) -> bool:
    """Tells whether this is a token: a method, a field name, an auth scheme (RFC 9110 §5.6.2)."""
    return _TOKEN_ONLY.fullmatch(name) is not None


def is_field_value(value: bytes) -> bool:
    """Tells whether a value holds only HTAB, SP, VCHAR and obs-text: no CR, LF, NUL or other control (§5.5)."""
    return _VALUE_ONLY.fullmatch(value) is not None


def values(fields: Fields | list[Field], name: bytes) -> list[bytes]:
    """Returns the values of all lines with this lower-case name, in order."""
    size = len(name)
    return [value for received, value in fields if len(received) == size and received.lower() == name]


class Spellings(dict[bytes, Any]):
    """What is to be known of a field name, found by the name as it was spelled: one look-up, no lower-casing.

    Senders spell few names in few ways, so nearly every name was seen before. Bounded; the usual spellings of `usual`
    have their places from the start, so that odd names cannot crowd them out.
    """

    __slots__ = ("_judge",)

    def __init__(self, judge: Callable[[bytes], Any], usual: Iterable[bytes] = ()) -> None:
        """`judge` says it of a lower-case name. Pure, since it is asked once."""
        super().__init__()
        self._judge = judge
        for name in usual:
            for spelling in (name, name.title()):
                self[spelling] = judge(name)

    def __missing__(self, name: bytes) -> Any:
        said = self._judge(name.lower())
        if len(self) < _MEMO_NAMES and len(name) <= _MEMO_NAME_OCTETS:
            self[name] = said
        return said


_SPELLINGS = Spellings(lambda name: name if name in KNOWN else None, KNOWN)


def known(fields: Fields | list[Field]) -> Known:
    """Returns the values of the fields that the gateway's rules ask for, each name's in order. One pass."""
    found: Known = {}
    for spelling, value in fields:
        name = _SPELLINGS[spelling]
        if name is not None:
            if name in found:
                found[name].append(value)
            else:
                found[name] = [value]
    return found


def list_members(lines: Iterable[bytes]) -> list[bytes]:
    """Returns the members of a comma-separated list over all its lines: lower-case, trimmed, empty ones left out.

    For lists of tokens; a quoted comma would be taken for a separator.
    """
    return [member for part in b",".join(lines).lower().split(b",") if (member := part.strip(OWS))]


def connection_options(found: Known) -> frozenset[bytes]:
    """Returns what `Connection` lists, lower-case: `close`, `keep-alive`, `upgrade`, and names of fields of this hop."""
    lines = found.get(b"connection")
    if lines is None:
        return _NO_OPTIONS
    if len(lines) == 1 and len(lines[0]) <= _MEMO_NAME_OCTETS:
        return _options(lines[0])
    return frozenset(list_members(lines))


@lru_cache(maxsize=256)  # nearly all say `keep-alive` or `close`
def _options(line: bytes) -> frozenset[bytes]:
    return frozenset(list_members((line,)))


def persists(version: tuple[int, int], found: Known) -> bool:
    """Tells whether a message leaves its connection open for another one: by default from HTTP/1.1 on (RFC 9112 §9.3)."""
    options = connection_options(found)
    return b"close" not in options and (version >= (1, 1) or b"keep-alive" in options)


def end_to_end(fields: Fields | list[Field]) -> list[Field]:
    """Returns the fields that go on to the next hop: neither connection-specific nor listed in `Connection`.

    What the gateway sets itself is added afterwards: a client could list it (RFC 9110 §7.6.1).
    """
    dropped = CONNECTION_SPECIFIC | connection_options(known(fields))
    return [line for line in fields if line[0].lower() not in dropped]


def twin(name: bytes) -> bytes:
    """Returns the name that an upstream sees which reads `_` as `-` (CGI, WSGI)."""
    return name.replace(b"_", b"-")


def binds_connection(found: Known) -> bool:
    """Tells whether a request's credentials may be taken for those of its whole connection: NTLM, Negotiate.

    Source: MS-NLMP, RFC 4559 §6.
    """
    lines = found.get(b"authorization", ())
    return any(value.replace(b"\t", b" ").partition(b" ")[0].lower() in CONNECTION_BOUND for value in lines)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate field. Scheme and parameter names are lower-case, values unquoted."""

    scheme: bytes
    params: dict[bytes, bytes] = field(default_factory=dict)


def challenges(fields: Fields | list[Field]) -> list[Challenge]:
    """Returns the challenges of all WWW-Authenticate lines, in order.

    Several may stand in one line, and their parameters are separated by the same comma; quoted commas separate nothing;
    a token68 is passed over. Of a repeated parameter the first counts. Malformed text is skipped to its next comma, so
    that a fault in one challenge hides no other. Time is linear in the length.
    """
    found: list[Challenge] = []
    for value in values(fields, b"www-authenticate"):
        _read_challenges(value, found)
    return found


def _read_challenges(value: bytes, found: list[Challenge]) -> None:
    params: dict[bytes, bytes] | None = None  # of the challenge being read; None before the first of this line
    at = _end(_SEPARATORS, value, 0)
    while at < len(value):
        if params is not None and (match := _PARAM.match(value, at)) is not None:
            name, plain, quoted = match.groups()
            params.setdefault(name.lower(), _QUOTED_PAIR.sub(rb"\1", quoted) if plain is None else plain)
            at = match.end()
            following = _end(_SEPARATORS, value, at)
            if following > at and _PARAM.match(value, following) is not None:
                at = following  # also where a space alone separates, as some servers write it
                continue
        elif (match := _SCHEME.match(value, at)) is not None:
            params = {}
            found.append(Challenge(match[1].lower(), params))
            at = match.end()
            if _PARAM.match(value, at) is None and (match := _TOKEN68.match(value, at)) is not None:
                at = match.end()
            elif at < len(value) and value[at : at + 1] != b",":
                continue  # its first parameter stands here, without a comma before it
        at = _end(_SEPARATORS, value, _end(_UNTIL_COMMA, value, at))


def _end(pattern: re.Pattern[bytes], value: bytes, at: int) -> int:
    match = pattern.match(value, at)
    assert match is not None  # both patterns match the empty string
    return match.end()
