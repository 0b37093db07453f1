"""What changes between the message that came in and the one that goes out, in both directions.

Strip first, inject last: connection-specific fields, those that ``Connection`` lists too, go before our own are added,
or a client that sends ``Connection: authorization`` would delete the token. Everything not named here passes byte for
byte, in order.

Source: RFC 9110 §7.6 (forwarding), RFC 9112 §6 (framing), RFC 7239 and the de-facto X-Forwarded-* fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway.access import Visitor
from proxy.gateway.problem import PSEUDONYM
from proxy.http1.fields import CONNECTION_SPECIFIC, KNOWN, Field, Spellings, connection_options, twin
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.target import join
from proxy.http1.wire import RequestHead, ResponseHead, keep_derived, open_head
from proxy.routing import ClientAuthorization, HostHeader, LiteralHost, Route, UnderscoreFields
from proxy.tokens.access_token import AccessToken

_REFRAMED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"x-request-id"})
_CLIENT_CLAIMS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})
_UNTRUSTED_FAMILIES = (b"proxy-", b"x-forwarded-")  # -Prefix, -Port, -User: what some framework or other believes
_PERSISTENCE = frozenset({b"close", b"keep-alive"})  # options of Connection that name no field
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_VIA_SELF = re.compile(
    rb"(?:^|,)[ \t]*(?:HTTP/)?1\.[01][ \t]+" + re.escape(PSEUDONYM) + rb"[ \t]*(?=,|$|\()", re.IGNORECASE
)
_NOTHING: list[Field] = []
MAX_LOOPS = 3  # our own pseudonym that often in Via means that we forward to ourselves


class _Fate(Enum):
    """What becomes of a field, by its name; None is the fate of most: it passes."""

    DROPPED = "does not pass"
    REFUSED = "could pass for a field of ours where `_` is read as `-`"
    VIA = "Via: kept, and counted for loops"
    CLAIM = "what a client says of itself: for a trusted proxy only"
    RELATED = "like a claim, and nothing that we set: as it is for a trusted proxy only"
    COUNTED = "Max-Forwards: counts down for OPTIONS"
    MAPPED = "Location and Content-Location: mapped back"
    FRAMING = "Content-Length: kept where it frames nothing"


# at module level, since an Enum's attribute costs more than the comparison it is for
_DROPPED, _REFUSED, _VIA, _CLAIM = _Fate.DROPPED, _Fate.REFUSED, _Fate.VIA, _Fate.CLAIM


class RequestRules:
    """A route's rules for request fields, compiled once: the fate of each name, and what is added."""

    __slots__ = ("_dropped", "_guarded", "fates", "host_line", "route", "token_name")

    def __init__(self, route: Route, key_names: Iterable[bytes] = ()) -> None:
        """`key_names` are the shared keys' fields, removed before forwarding."""
        dropped = set(_REFRAMED) | route.remove_request_headers
        dropped |= {name.lower() for name, _ in route.set_request_headers}
        if route.credential is not None:
            dropped |= {route.header_name.lower(), b"authorization"}
        elif route.client_authorization is not ClientAuthorization.PASS:
            dropped.add(b"authorization")
        dropped |= {name.lower() for name in key_names}
        self.route = route
        self._dropped = CONNECTION_SPECIFIC | dropped
        # all that we set, remove or frame by
        self._guarded = self._dropped | _CLIENT_CLAIMS | {b"via", b"authorization"}
        self.fates = Spellings(self._fate, KNOWN | self._guarded)
        self.host_line = b"Host: " + route.upstream.authority  # unless the route says otherwise
        self.token_name = b"\r\n" + route.header_name + b": "

    def _fate(self, name: bytes) -> _Fate | None:
        if b"_" in name:
            policy = self.route.underscore_fields
            if policy is UnderscoreFields.REFUSE:
                return _REFUSED
            if policy is UnderscoreFields.DROP:
                return _DROPPED
            other = twin(name)
            if other in self._guarded or other.startswith(_UNTRUSTED_FAMILIES):
                return _REFUSED
        if name == b"via":
            return _VIA
        if name in self._dropped or name.startswith(b"proxy-"):
            return _DROPPED
        if name in _CLIENT_CLAIMS:
            return _CLAIM
        if name.startswith(_UNTRUSTED_FAMILIES):
            return _Fate.RELATED
        return _Fate.COUNTED if name == b"max-forwards" else None


def outbound_target(route: Route, path: bytes, query: bytes | None) -> bytes:
    """Returns the request target for the upstream: base path, prefix stripped or not, query as it came."""
    prefix = route.match.path_exact or route.match.path_prefix or b"/"
    target = join(base=route.base_path, path=path, prefix=prefix, strip=route.strip_prefix)
    return target if query is None else target + b"?" + query


def outbound_lines(
    head: RequestHead,
    rules: RequestRules,
    visitor: Visitor,
    *,
    host: bytes | None,
    framing: Framing,
    upgrade: bytes = b"",
) -> list[bytes]:
    """Returns the field lines of the forwarded request, all but those of `set_lines`: Host first, the client's in order, ours.

    Those and the token come after everything else has been stripped, so nothing a client sends can remove them.
    `host` is the authority that the client named, `upgrade` the value of Upgrade where it asks for another protocol. Raises Refusal(BAD_REQUEST) for an underscore twin,
    Refusal(LOOP_DETECTED) for our own Via three times.
    """
    route = rules.route
    passing, odd = _sorted_out(head, rules, visitor)
    lines = [rules.host_line if route.host_header is HostHeader.UPSTREAM else _host_line(route, host), *passing]
    if framing.kind is BodyKind.LENGTH:
        lines.append(b"Content-Length: %d" % framing.length)
    elif framing.kind is BodyKind.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    if upgrade:
        lines += _upgrade(upgrade)
    if odd and (via := [value for name, value in odd if name.lower() == b"via"]):
        if sum(len(_VIA_SELF.findall(value)) for value in via) >= MAX_LOOPS:
            raise Refusal(Problem.LOOP_DETECTED)
        lines += [b"Via: " + value for value in via]
    lines += _told(head, route, visitor, host) if not odd else _of_the_sender(head, route, visitor, host, odd)
    return lines


def set_lines(route: Route) -> bytes:
    """Returns the field lines that the route sets, as octets of a head. Raises as `open_head` does."""
    first, *lines = [name + b": " + source.read().reveal().encode() for name, source in route.set_request_headers]
    return open_head(first, lines)


def _sorted_out(
    head: RequestHead, rules: RequestRules, visitor: Visitor
) -> tuple[tuple[bytes, ...] | list[bytes], list[Field]]:
    """Returns the lines that pass, and the fields of which more is to be said than their fate."""
    remembered = head.derived.get(rules)
    if remembered is not None:
        return remembered, _NOTHING  # type: ignore[return-value]  # it was put there below
    fates = rules.fates
    passing: list[bytes] = []
    odd: list[Field] = []
    plain = b"connection" not in head.known
    for field in head.fields if plain else _unlisted(head, fates):
        fate = fates[field[0]]
        if fate is None:
            passing.append(b": ".join(field))
        elif fate is _Fate.COUNTED:
            passing.append(_counted_down(field, head.method))
            plain = False
        elif fate is not _DROPPED:
            odd.append(field)
            if fate is _REFUSED:
                raise Refusal(Problem.BAD_REQUEST, "a field name with an underscore")
            passes = fate is _Fate.RELATED or (fate is _CLAIM and not rules.route.forwarding.x_forwarded)
            if visitor.trusted and passes:
                passing.append(b": ".join(field))
    if plain and not odd:
        keep_derived(head.derived, rules, tuple(passing))
    return passing, odd


def _told(head: RequestHead, route: Route, visitor: Visitor, host: bytes | None) -> list[bytes]:
    """Returns what is told of a sender that says nothing of itself: the same for each of a connection's requests."""
    key = (route.name, host, head.version)
    lines = visitor.derived.get(key)
    if lines is None:
        lines = _of_the_sender(head, route, visitor, host, _NOTHING)
        keep_derived(visitor.derived, key, lines)
    return lines


def _of_the_sender(
    head: RequestHead, route: Route, visitor: Visitor, host: bytes | None, odd: list[Field]
) -> list[bytes]:
    lines: list[bytes] = []
    if route.forwarding.via:
        lines.append(b"Via: %d.%d %b" % (*head.version, PSEUDONYM))
    if route.forwarding.x_forwarded:
        lines += _claims(odd if visitor.trusted else _NOTHING, visitor, host)
    return lines


def _unlisted(head: RequestHead, fates: Spellings) -> Iterable[Field]:
    """Returns the fields without those that `Connection` lists; Via says where a message was, whoever lists it."""
    listed = connection_options(head.known) - _PERSISTENCE
    if not listed:
        return head.fields
    return [field for field in head.fields if field[0].lower() not in listed or fates[field[0]] in {_VIA, _REFUSED}]


def _counted_down(field: Field, method: bytes) -> bytes:
    name, value = field
    if method == b"OPTIONS" and value.isdigit():
        value = b"%d" % max(0, int(value.lstrip(b"0")[:9] or b"0") - 1)
    return name + b": " + value


def _host_line(route: Route, host: bytes | None) -> bytes:
    if isinstance(route.host_header, LiteralHost):
        return b"Host: " + route.host_header.value
    return b"Host: " + (route.upstream.authority if host is None else host)


def _claims(received: Iterable[Field], visitor: Visitor, host: bytes | None) -> Iterable[bytes]:
    """Returns X-Forwarded-For, -Proto and -Host; those of a trusted proxy are kept and appended to."""
    proto = b"https" if visitor.secure else b"http"
    if not received:
        lines = [] if visitor.address is None else [b"X-Forwarded-For: " + visitor.address]
        lines.append(b"X-Forwarded-Proto: " + proto)
        if host is not None:
            lines.append(b"X-Forwarded-Host: " + host)
        return lines
    kept: dict[bytes, list[bytes]] = {}
    for name, value in received:
        if (lower := name.lower()) in _CLIENT_CLAIMS:
            kept.setdefault(lower, []).append(value)
    hops = kept.pop(b"x-forwarded-for", [])
    if visitor.address is not None:
        hops = [*hops, visitor.address]
    lines = [b"X-Forwarded-For: " + b", ".join(hops)] if hops else []
    lines += [b"X-Forwarded-Proto: " + value for value in kept.pop(b"x-forwarded-proto", [proto])]
    lines += [b"X-Forwarded-Host: " + value for value in kept.pop(b"x-forwarded-host", [] if host is None else [host])]
    lines += [name + b": " + value for name, values in kept.items() for value in values]
    return lines


class ResponseRules:
    """A route's rules for response fields, compiled once."""

    __slots__ = ("_dropped", "_set_date", "fates", "last", "route", "whole")

    def __init__(self, route: Route) -> None:
        self.route = route
        self._dropped = CONNECTION_SPECIFIC | route.remove_response_headers
        self._dropped |= {name.lower() for name, _ in route.set_response_headers}
        self.fates = Spellings(self._fate, KNOWN)
        # what a head that passed by these rules is known by, in its `derived`: on a connection that stays, or does not
        self.whole, self.last = object(), object()
        self._set_date = any(name.lower() == b"date" for name, _ in route.set_response_headers)

    def dated(self, head: ResponseHead) -> bool:
        """Tells whether Date is among the lines of `inbound_lines`."""
        if b"date" not in head.known or self.fates[b"date"] is not None:
            return self._set_date
        return b"connection" not in head.known or b"date" not in connection_options(head.known)

    def _fate(self, name: bytes) -> _Fate | None:
        if name in self._dropped:
            return _DROPPED
        if name == b"content-length":
            return _Fate.FRAMING
        mapped = self.route.rewrite_location and name in {b"location", b"content-location"}
        return _Fate.MAPPED if mapped else None


def inbound_lines(head: ResponseHead, rules: ResponseRules, *, method: bytes) -> list[bytes]:
    """Returns the upstream's field lines as the client gets them; framing fields are left to the sender.

    Content-Length is kept where it frames nothing: it tells of the body that GET would have had (RFC 9110 §8.6).
    """
    remembered = head.derived.get(rules)
    if remembered is not None and method != b"HEAD":
        lines: list[bytes] = [*remembered]  # type: ignore[misc]  # they were put there below
    else:
        lines = _inbound(head, rules, method=method)
        if method != b"HEAD":
            keep_derived(head.derived, rules, tuple(lines))
    if rules.route.set_response_headers:
        lines += [name + b": " + source.read().reveal().encode() for name, source in rules.route.set_response_headers]
    return lines


def _inbound(head: ResponseHead, rules: ResponseRules, *, method: bytes) -> list[bytes]:
    fates = rules.fates
    fields: Iterable[Field] = head.fields
    if b"connection" in head.known and (listed := connection_options(head.known) - _PERSISTENCE):
        fields = [field for field in fields if field[0].lower() not in listed]
    lines: list[bytes] = []
    for field in fields:
        fate = fates[field[0]]
        if fate is None:
            lines.append(b": ".join(field))
        elif fate is _Fate.MAPPED:
            lines.append(field[0] + b": " + mapped_location(field[1], rules.route))
        elif fate is _Fate.FRAMING and (head.status == 304 or (method == b"HEAD" and head.status != 204)):
            lines.append(b": ".join(field))
    return lines


def switched_lines(head: ResponseHead, rules: ResponseRules) -> list[bytes]:
    """Returns the field lines of a 101 as the client gets them."""
    return [*inbound_lines(head, rules, method=b"GET"), *_upgrade(b", ".join(head.known[b"upgrade"]))]


def _upgrade(protocols: bytes) -> list[bytes]:
    return [b"Connection: Upgrade", b"Upgrade: " + protocols]  # spelt as browsers do: some servers compare it


def reflects(head: ResponseHead, token: AccessToken | None) -> bool:
    """Tells whether a response's head shows the access token to the client.

    As it is, or percent-encoded, as a redirect's Location would carry it. This is for servers that echo what they got; one
    that means to tell the token has it, and a body to tell it in.
    """
    if token is None or head.clear_of is token.mark:
        return False
    if any(map(head.holds, token.shapes)):
        return True
    head.clear_of = token.mark
    return False


def refuse_reflection(head: ResponseHead, token: AccessToken | None) -> None:
    """Raises GatewayError(HTTP_PROTOCOL_ERROR, UPSTREAM) if a response's head shows the access token to the client."""
    if reflects(head, token):
        raise reflection()


def reflection() -> GatewayError:
    """Returns the failure of an upstream that shows the access token."""
    return GatewayError(ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM, "a response head shows the access token")


def mapped_location(value: bytes, route: Route) -> bytes:
    """Maps a reference to the upstream's own origin and base path back to the gateway's path; leaves all others.

    The result is a path (RFC 3986 §4.2 absolute-path reference), so it holds behind any front end and any Host.
    """
    match = _ABSOLUTE.fullmatch(value)
    if match is not None:
        scheme, authority, path, rest = match.groups()
        if not _same_origin(scheme, authority, route):
            return value
    elif value.startswith(b"/") and not value.startswith(b"//"):
        end = min((i for i in (value.find(b"?"), value.find(b"#")) if i >= 0), default=len(value))
        path, rest = value[:end], value[end:]
    else:
        return value
    base = route.base_path.rstrip(b"/")
    if base and path != base and not path.startswith(base + b"/"):
        return value
    below = path[len(base) :]
    if route.strip_prefix and route.match.path_prefix is not None:
        below = route.match.path_prefix.rstrip(b"/") + below
    elif route.strip_prefix:
        return value  # an exact route has nothing below it to map to
    if below.startswith(b"//"):
        return value  # would read as another authority
    return (below or b"/") + rest


def _same_origin(scheme: bytes, authority: bytes, route: Route) -> bool:
    origin = route.upstream
    if scheme.lower() != origin.scheme.encode("ascii"):
        return False
    default = b":443" if origin.scheme == "https" else b":80"
    return authority.lower().removesuffix(default) == origin.authority.lower()
