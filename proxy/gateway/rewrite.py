"""What changes between the message that came in and the one that goes out, in both directions.

Strip first, inject last: connection-specific fields, those that ``Connection`` lists too, go before our own are added,
or a client that sends ``Connection: authorization`` would delete the token. Everything not named here passes byte for
byte, in order.

Source: RFC 9110 §7.6 (forwarding), RFC 9112 §6 (framing), RFC 7239 and the de-facto X-Forwarded-* fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.gateway.problem import PSEUDONYM
from proxy.http1.fields import CONNECTION_SPECIFIC, Field, connection_options, twin
from proxy.http1.framing import BodyKind, Framing
from proxy.http1.target import join
from proxy.http1.wire import RequestHead, ResponseHead
from proxy.routing import ClientAuthorization, HostHeader, LiteralHost, Route, UnderscoreFields
from proxy.tokens.access_token import AccessToken

_REFRAMED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"x-request-id"})
_CLIENT_CLAIMS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})
_HOP_FAMILY: tuple[bytes, ...] = (b"proxy-",)
_UNTRUSTED_FAMILIES = (b"proxy-", b"x-forwarded-")  # -Prefix, -Port, -User: what some framework or other believes
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_VIA_SELF = re.compile(
    rb"(?:^|,)[ \t]*(?:HTTP/)?1\.[01][ \t]+" + re.escape(PSEUDONYM) + rb"[ \t]*(?=,|$|\()", re.IGNORECASE
)
_TO_ENCODE = frozenset(b"+/=")  # all that a token may hold and a query may not (RFC 6750 §2.1, RFC 3986 §3.4)
MAX_LOOPS = 3  # our own pseudonym that often in Via means that we forward to ourselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What the gateway tells an upstream about the client's side of a request."""

    address: bytes | None  # IP address text, None for a unix socket
    secure: bool  # the client spoke TLS
    trusted: bool  # the peer is a trusted proxy: its X-Forwarded-* are kept and appended to
    host: bytes | None  # Host as the client sent it
    version: tuple[int, int]
    request_id: bytes


@dataclass(frozen=True, slots=True)
class RequestRules:
    """A route's rules for request fields, compiled once: which names never pass, and what is added."""

    route: Route
    dropped: frozenset[bytes]
    guarded: frozenset[bytes]  # names whose `_` twin is refused: all that we set, remove or frame by

    @classmethod
    def compiled(cls, route: Route, key_names: Iterable[bytes] = ()) -> RequestRules:
        """Returns the rules of a route; `key_names` are the shared keys' fields, removed before forwarding."""
        dropped = set(_REFRAMED) | route.remove_request_headers
        dropped |= {name.lower() for name, _ in route.set_request_headers}
        if route.credential is not None:
            dropped |= {route.header_name.lower(), b"authorization"}
        elif route.client_authorization is not ClientAuthorization.PASS:
            dropped.add(b"authorization")
        dropped |= {name.lower() for name in key_names}
        guarded = dropped | CONNECTION_SPECIFIC | _CLIENT_CLAIMS | {b"via", b"authorization"}
        return cls(route, frozenset(dropped), frozenset(guarded))


def outbound_target(route: Route, path: bytes, query: bytes | None) -> bytes:
    """Returns the request target for the upstream: base path, prefix stripped or not, query as it came."""
    prefix = route.match.path_exact or route.match.path_prefix or b"/"
    target = join(base=route.base_path, path=path, prefix=prefix, strip=route.strip_prefix)
    return target if query is None else target + b"?" + query


def outbound_fields(head: RequestHead, rules: RequestRules, sender: Sender, framing: Framing) -> list[Field]:
    """Returns the field lines of the forwarded request, all but the token: Host first, the client's in order, ours.

    The token is appended after everything else has been stripped and set, so nothing a client sends can remove it.
    Raises Refusal(BAD_REQUEST) for an underscore twin, Refusal(LOOP_DETECTED) for our own Via three times.
    """
    route = rules.route
    dropped = CONNECTION_SPECIFIC | rules.dropped | connection_options(head.fields)
    families = _HOP_FAMILY
    if not sender.trusted:
        dropped |= _CLIENT_CLAIMS
        families = _UNTRUSTED_FAMILIES
    out: list[Field] = [(b"Host", _host(route, sender))]
    via: list[bytes] = []
    claims: dict[bytes, list[bytes]] = {}
    for name, value in head.fields:
        lower = name.lower()
        if b"_" in lower and _underscore_dropped(lower, rules):
            continue
        if lower == b"via":
            via.append(value)
        elif lower in dropped or lower.startswith(families):
            continue
        elif lower in _CLIENT_CLAIMS and route.forwarding.x_forwarded:
            claims.setdefault(lower, []).append(value)
        elif lower == b"max-forwards" and head.method == b"OPTIONS" and value.isdigit():
            out.append((name, b"%d" % max(0, int(value[:9]) - 1)))
        else:
            out.append((name, value))
    if framing.kind is BodyKind.LENGTH:
        out.append((b"Content-Length", b"%d" % framing.length))
    elif framing.kind is BodyKind.CHUNKED:
        out.append((b"Transfer-Encoding", b"chunked"))
    out.extend(_via(route, via, sender))
    if route.forwarding.x_forwarded:
        out.extend(_claims(claims, sender))
    out.append((b"X-Request-Id", sender.request_id))
    out.extend((name, source.read().reveal().encode()) for name, source in route.set_request_headers)
    return out


def _underscore_dropped(lower: bytes, rules: RequestRules) -> bool:
    """Applies the route's policy to a name with `_`; Raises Refusal for one that could pass as a field of ours."""
    policy = rules.route.underscore_fields
    other = twin(lower)
    forged = other in rules.guarded or other.startswith(_UNTRUSTED_FAMILIES)
    if policy is UnderscoreFields.REFUSE or (policy is UnderscoreFields.TWINS and forged):
        raise Refusal(Problem.BAD_REQUEST, "a field name with an underscore")
    return policy is UnderscoreFields.DROP


def _host(route: Route, sender: Sender) -> bytes:
    if isinstance(route.host_header, LiteralHost):
        return route.host_header.value
    if route.host_header is HostHeader.CLIENT and sender.host is not None:
        return sender.host
    return route.upstream.authority


def _via(route: Route, received: list[bytes], sender: Sender) -> list[Field]:
    if received and sum(len(_VIA_SELF.findall(value)) for value in received) >= MAX_LOOPS:
        raise Refusal(Problem.LOOP_DETECTED)
    lines: list[Field] = [(b"Via", value) for value in received]
    if route.forwarding.via:
        lines.append((b"Via", b"%d.%d %s" % (*sender.version, PSEUDONYM)))
    return lines


def _claims(received: dict[bytes, list[bytes]], sender: Sender) -> list[Field]:
    """Returns X-Forwarded-For, -Proto and -Host; those of a trusted proxy are kept and appended to."""
    hops = received.pop(b"x-forwarded-for", [])
    if sender.address is not None:
        hops = [*hops, sender.address]
    lines = [(b"X-Forwarded-For", b", ".join(hops))] if hops else []
    proto = received.pop(b"x-forwarded-proto", [b"https" if sender.secure else b"http"])
    lines += [(b"X-Forwarded-Proto", value) for value in proto]
    host = received.pop(b"x-forwarded-host", [] if sender.host is None else [sender.host])
    lines += [(b"X-Forwarded-Host", value) for value in host]
    lines += [(name, value) for name, kept in received.items() for value in kept]
    return lines


def inbound_fields(head: ResponseHead, route: Route, *, method: bytes) -> list[Field]:
    """Returns the upstream's field lines as the client gets them; framing fields are left to the sender.

    Content-Length is kept where it frames nothing: it tells of the body that GET would have had (RFC 9110 §8.6).
    """
    dropped = CONNECTION_SPECIFIC | route.remove_response_headers | connection_options(head.fields)
    dropped |= {name.lower() for name, _ in route.set_response_headers}
    if not (head.status == 304 or (method == b"HEAD" and head.status != 204)):
        dropped |= {b"content-length"}
    out: list[Field] = []
    for name, value in head.fields:
        lower = name.lower()
        if lower in dropped:
            continue
        if route.rewrite_location and lower in {b"location", b"content-location"}:
            out.append((name, mapped_location(value, route)))
        else:
            out.append((name, value))
    out.extend((name, source.read().reveal().encode()) for name, source in route.set_response_headers)
    return out


def refuse_reflection(head: ResponseHead, token: AccessToken | None) -> None:
    """Raises GatewayError(HTTP_PROTOCOL_ERROR, UPSTREAM) if a response's head shows the access token to the client.

    As it is, or percent-encoded, as a redirect's Location would carry it. This is for servers that echo what they got; one
    that means to tell the token has it, and a body to tell it in.
    """
    if token is None:
        return
    text = token.field_value.partition(b" ")[2]
    if not text:
        return
    shapes = (text,) if _TO_ENCODE.isdisjoint(text) else (text, *_percent_encoded(text))
    for shape in shapes:
        if shape in head.reason or any(shape in value or shape in name for name, value in head.fields):
            raise GatewayError(ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM, "a response head shows the access token")


def _percent_encoded(text: bytes) -> tuple[bytes, bytes]:
    """Returns a token's text as it may stand in a URL, with the digits of either case."""
    upper = quote(text, safe="").encode("ascii")
    return upper, upper.replace(b"%2B", b"%2b").replace(b"%2F", b"%2f").replace(b"%3D", b"%3d")


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
