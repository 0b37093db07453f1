"""Request targets and Host: their grammar, which paths are ambiguous, and how a path goes on to the upstream.

Targets are parsed, never normalised: path and query stay the bytes that were received, because the route is matched and
the request forwarded on the same bytes. No routing here.

Source: RFC 9112 §3.2 (request target), RFC 9110 §4.2, §7.2 (Host), RFC 3986 §3.2.2 (host grammar).
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from proxy.errors import Problem, Refusal

_MAX_PORT = 65535
_MEMO_HOSTS = 1024
_MEMO_HOST_OCTETS = 255  # RFC 1035 §2.3.4: longer ones name nothing, and would make the memo large

# VCHAR without ? and #. Wider than RFC 3986 (`[ ] | " < > ^ { } \ `` ` ``): clients send these, and upstreams know them.
_PATH = rb"[!\"$->@-~]*+"
_QUERY = rb"[!\"$-~]*+"
_ORIGIN = re.compile(rb"(/%b)(?:\?(%b))?" % (_PATH, _QUERY))
_ABSOLUTE = re.compile(rb"https?://([^/?#]++)((?:/%b)?)(?:\?(%b))?" % (_PATH, _QUERY), re.IGNORECASE)

_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})++"  # without the comma: a list of hosts is no host
_IP_LITERAL = rb"\[(?:([0-9A-Fa-f:.]++)|[vV][0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++)\]"
_HOST = re.compile(rb"(%b|%b)(?::([0-9]{1,5}))?" % (_REG_NAME, _IP_LITERAL))

_SUSPECT = re.compile(rb"/\.|[%\\]")
_DOT_SEGMENT = re.compile(rb"(?:/|%2[fF])(?:\.|%2[eE]){1,2}(?:/|%2[fF]|;|%3[bB]|\Z)")
_BACKSLASH = re.compile(rb"\\|%5[cC]")
_CONTROL = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[fF])")
_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TWICE = re.compile(rb"%(?:2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")  # in what one decoding leaves
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_LOOSE = re.compile(rb"[%;]|//")
_ODD = re.compile(rb"[%;\\]|/[./]")  # whatever either of those looks for
_PARAMETERS = re.compile(rb";[^/]*+|[?#].*+", re.DOTALL)
_SLASHES = re.compile(rb"//++")


class Form(Enum):
    """The forms of a request target that the gateway takes (RFC 9112 §3.2); authority-form is CONNECT's alone."""

    ORIGIN = "origin-form"
    ABSOLUTE = "absolute-form"
    ASTERISK = "asterisk-form"


class RequestTarget(NamedTuple):
    """A parsed request target. A named tuple, because one is made for each request: a third of a dataclass's time."""

    form: Form
    path: bytes  # as received; b"*" in asterisk-form
    query: bytes | None  # without its `?`; None if there is no `?`
    authority: bytes | None  # absolute-form only: takes Host's place

    def __repr__(self) -> str:  # a query may hold secrets
        return f"RequestTarget({self.form.value}, {self.path!r})"


class Host(NamedTuple):
    """A parsed Host or authority."""

    name: bytes  # lower-case, no port; an IPv6 address keeps its brackets
    port: int | None


def parse_target(target: bytes, method: bytes) -> RequestTarget:
    """Parses a request target. Time is linear in its length.

    Raises Refusal(BAD_REQUEST) for white space, controls, non-ASCII octets, a fragment, another scheme than http and
    https, user information, an ungrammatical authority, authority-form, and `*` with another method than OPTIONS.
    """
    if (match := _ORIGIN.fullmatch(target)) is not None:
        path, query = match.groups()
        return RequestTarget(Form.ORIGIN, path, query, None)
    if target == b"*" and method == b"OPTIONS":
        return RequestTarget(Form.ASTERISK, target, None, None)
    if (match := _ABSOLUTE.fullmatch(target)) is not None:
        authority, path, query = match.groups()
        parse_host(authority)  # its grammar has no user information
        if not path and query is None and method == b"OPTIONS":
            return RequestTarget(Form.ASTERISK, b"*", None, authority)  # RFC 9112 §3.2.4: about the server as a whole
        return RequestTarget(Form.ABSOLUTE, path or b"/", query, authority)
    raise Refusal(Problem.BAD_REQUEST, "malformed request target")


def unmistakable(path: bytes) -> bool:
    """Tells whether a path reads alike for all: `ambiguity` says None, and `loosely_read` returns it as it is."""
    return _ODD.search(path) is None


def ambiguity(path: bytes) -> str | None:
    """Returns what makes two readers of a path disagree, or None for a path that all read alike.

    `%2F` alone and `//` within pass. A backslash does not, written either way: some read it as `/`.
    """
    if path.startswith(b"//"):
        return "a leading //"
    if _SUSPECT.search(path) is None:
        return None  # nearly every path
    if _MALFORMED.search(path) is not None:
        return "a malformed percent-encoding"
    if _BACKSLASH.search(path) is not None:
        return "a backslash"
    if _CONTROL.search(path) is not None:
        return "an encoded control character"
    if b"%25" in path and _TWICE.search(_ENCODED.sub(_octet, path)) is not None:
        return "a separator, dot or control encoded twice"
    if _DOT_SEGMENT.search(path) is not None:
        return "a dot segment"
    return None


def loosely_read(path: bytes) -> bytes:
    """Returns the path as the most lenient reader takes it: for comparing which route it selects, never for forwarding.

    Visible ASCII is decoded, twice where it was encoded twice, and `%2F` to a separator too; a segment's parameters are
    cut off, and all that follows a decoded `?` or `#`; neighbouring slashes are one; of what stays encoded the digits
    are upper-case. Nearly every path is returned as it is. Time is linear in the length.
    """
    if _LOOSE.search(path) is None:
        return path
    decoded = _ENCODED.sub(_octet, path) if b"%25" in path else path
    decoded = _ENCODED.sub(_visible, decoded)
    return _SLASHES.sub(b"/", _PARAMETERS.sub(b"", decoded))


def _octet(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode("ascii"))


def _visible(match: re.Match[bytes]) -> bytes:
    octet = _octet(match)
    return octet if b"!" <= octet <= b"~" and octet != b"%" else match[0].upper()


def join(*, base: bytes, path: bytes, prefix: bytes, strip: bool) -> bytes:
    """Returns the path for the upstream: its base path, and the request's path with or without the route's prefix.

    `prefix` is what the route matched by, `path` begins with it. With base /v1 and prefix /orders, stripped:
    /orders→/v1, /orders/→/v1/, /orders/7→/v1/7, /orders//7→/v1//7; without a base, an empty result is /.
    """
    rest = path[len(prefix) - prefix.endswith(b"/") :] if strip else path
    if not rest:
        return base or b"/"
    return base.removesuffix(b"/") + rest


def parse_host(value: bytes) -> Host:
    """Parses a Host field's value or an authority: a name, IPv4 or bracketed IP literal, and perhaps a port.

    Raises Refusal(BAD_REQUEST) if it is empty, a list, has user information, an empty port or one above 65535.
    """
    return _memoised_host(value) if len(value) <= _MEMO_HOST_OCTETS else _parsed_host(value)


def _parsed_host(value: bytes) -> Host:
    match = _HOST.fullmatch(value)
    if match is None:
        raise Refusal(Problem.BAD_REQUEST, "malformed Host")
    name, address, port = match.groups()
    if address is not None:
        try:
            IPv6Address(address.decode("ascii"))
        except AddressValueError:
            raise Refusal(Problem.BAD_REQUEST, "malformed IPv6 address in Host") from None
    number = None if port is None else int(port)
    if number is not None and number > _MAX_PORT:
        raise Refusal(Problem.BAD_REQUEST, "port out of range in Host")
    return Host(name.lower(), number)


_memoised_host = lru_cache(maxsize=_MEMO_HOSTS)(_parsed_host)  # clients name few hosts; refusals are not kept
