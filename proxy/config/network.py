"""Values that name places in the network: addresses, hosts, networks, origins and URLs.

Parsers as ``scalars`` has them: text in, value out, ValueError with a fixed text. URLs are taken apart by yarl and kept
as they were written; what two readers could read differently is refused.

Source: RFC 3986 (URLs), RFC 6454 §6.2 (origins), RFC 9110 §7.2 (Host), RFC 8707 §2 (`resource`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from yarl import URL

from proxy.config.scalars import Written, comma_list, patterned
from proxy.gateway.settings import Address, Network, TcpAddress, UnixAddress
from proxy.http1.target import ambiguity
from proxy.oauth.registration import HttpProxy, is_resource
from proxy.secret import Secret
from proxy.upstream.origin import Origin

_MAX_PORT = 65535
_MAX_UNIX_PATH = 107  # octets: sun_path of Linux, less the final zero
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_URL = re.compile(r"(?i:https?)://([^/?#]+)(/[^?#]*)?(\?[^#]*)?")
_ORIGIN = re.compile(r"(?i:https?)://[^/?#@]+")
_PROXY = re.compile(r"(?i:http)://(?:([!-~]*?)(?::([!-~]*))?@)?([^/?#@]+:[0-9]+)/?")
_URL_TEXT = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https URL, taken apart; the path is as written."""

    text: str
    origin: Origin
    path: str
    has_query: bool

    @property
    def plain_http_beyond_loopback(self) -> bool:
        """Tells whether what is sent there can be read on the way."""
        return not self.origin.secure and not self.origin.is_loopback


def is_loopback(address: Address) -> bool:
    """Tells whether only this machine can connect to a listening address."""
    return isinstance(address, UnixAddress) or Origin("http", address.host, address.port).is_loopback


def address(value: str) -> Address:
    """Returns a listening address: `host:port`, `[::1]:8080`, `:8080` (every IPv4 address), `unix:/path`."""
    if value.startswith("unix:"):
        path = Path(value.removeprefix("unix:"))
        if not path.is_absolute() or "\0" in value or len(str(path).encode("utf-8", "replace")) > _MAX_UNIX_PATH:
            raise ValueError("a unix socket is `unix:` and an absolute path of 107 octets at most")
        return UnixAddress(path)
    host, colon, port_text = value.rpartition(":")
    if not colon or _PORT.fullmatch(port_text) is None or int(port_text) > _MAX_PORT:
        raise ValueError("expected host:port or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        if not _is_ipv6(host[1:-1]):
            raise ValueError("expected host:port; between [ and ] stands an IPv6 address")
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("expected host:port; an IPv6 address stands between [ and ]: [::1]:8080")
    elif host and _HOST_NAME.fullmatch(host.lower()) is None:
        raise ValueError("expected host:port or unix:/path; the host is not one")
    return TcpAddress(host.lower() or "0.0.0.0", int(port_text))  # noqa: S104  # asked for, and guarded by the access lists


def admin_address(value: str) -> Address | None:
    """Returns the admin listener's address; None for `off`."""
    return None if value == "off" else address(value)


def network(value: str) -> Network:
    """Returns a network, or the one address as a network."""
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("expected an IP address or a network such as 10.0.0.0/8") from None
    raise ValueError("has address bits beyond its prefix length; give the network's own address, such as 10.0.0.0/8")


def allowed_host(value: str) -> bytes:
    """Returns a name that Host may have: lower-case, no port; `*` alone is any, `*.example` any name below."""
    return b"*" if value == "*" else route_host(value).encode("ascii")


def route_host(value: str) -> str:
    """Returns the host of a route: lower-case, no port; `*.example` is any name below."""
    host = value.lower()
    if _is_ipv6(host.removeprefix("[").removesuffix("]")):
        return f"[{host.removeprefix('[').removesuffix(']')}]"
    if _HOST_NAME.fullmatch(host.removeprefix("*.")) is None:
        raise ValueError("expected a host name without port, such as api.example or *.example (ASCII; xn-- for others)")
    return host


def host_field(value: str) -> bytes:
    """Returns what Host shall say: a name, perhaps with a port."""
    host, colon, port = value.rpartition(":") if _PORT.fullmatch(value.rpartition(":")[2]) else (value, "", "")
    if colon and int(port) > _MAX_PORT:
        raise ValueError("has a port above 65535")
    bracketed = host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1])
    if not bracketed and _HOST_NAME.fullmatch(host.lower()) is None:
        raise ValueError("expected upstream, client, or a host name, perhaps with a port")
    return value.encode("ascii")


def origin(value: str) -> bytes:
    """Returns a web origin: scheme, host, and port if it is not the scheme's own."""
    if _ORIGIN.fullmatch(value) is None:
        raise ValueError("expected an origin such as https://app.example, without a path")
    url(value)
    return value.lower().encode("ascii")


def url(value: str) -> Url:
    """Returns an http or https URL without user information and fragment."""
    if _URL_TEXT.fullmatch(value) is None:
        raise ValueError("a URL holds no spaces, control characters or non-ASCII characters (percent-encode them)")
    if "#" in value:
        raise ValueError("must have no fragment (#)")
    match = _URL.fullmatch(value)
    if match is None:
        raise ValueError("expected a URL: http:// or https://, a host, and perhaps a path")
    if "@" in match[1]:
        raise ValueError("must have no user information (the part before @)")
    try:
        parsed = URL(value, encoded=True)
        host, port = (parsed.raw_host or "").lower(), parsed.port
    except ValueError:
        host, port = "", None
    if not (_HOST_NAME.fullmatch(host) or _is_ipv6(host)) or not port or match[1].endswith(":"):
        raise ValueError("has a host or a port that is not one")
    scheme: Literal["http", "https"] = "https" if parsed.scheme == "https" else "http"
    return Url(value, Origin(scheme, host, port), match[2] or "", match[3] is not None)


def upstream_url(value: str) -> Url:
    """Returns the URL of an upstream: its path is what requests are put below."""
    parsed = url(value)
    if parsed.has_query:
        raise ValueError("must have no query (?): the query is the request's")
    if (reason := ambiguity(parsed.path.encode("ascii"))) is not None:
        raise ValueError(f"has an ambiguous path: {reason}")
    return parsed


def issuer_url(value: str) -> Url:
    """Returns the identifier of an authorization server (RFC 8414 §2)."""
    parsed = url(value)
    if parsed.has_query:
        raise ValueError("must have no query (?): it is compared with the metadata's issuer, character by character")
    return parsed


def proxy_url(value: str) -> HttpProxy:
    """Returns an HTTP proxy: http, perhaps user and password (percent-encoded), a host and a port."""
    match = _PROXY.fullmatch(value)
    if match is None:
        raise ValueError("expected http://host:port of an HTTP proxy, perhaps with user:password@ before the host")
    user, password, authority = match[1], match[2], match[3]
    try:
        parsed = url(f"http://{authority}")
    except ValueError:
        raise ValueError("has a host or a port that is not one") from None
    authorization = None
    if user is not None:
        octets = unquote_to_bytes(user) + b":" + unquote_to_bytes(password or "")
        authorization = Secret("Basic " + b64encode(octets).decode("ascii"))
    return HttpProxy(url=parsed.text, authorization=authorization)


def resource(value: str) -> str:
    """Returns a resource indicator (RFC 8707 §2)."""
    if not is_resource(value):
        raise ValueError("expected an absolute URI without fragment")
    return value


def _is_ipv6(value: str) -> bool:
    try:
        return "%" not in value and IPv6Address(value) is not None
    except ValueError:
        return False


_ADDRESS = patterned(r"unix:/.+|(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]/ ]*):[0-9]{1,5}")
_NETWORK = patterned(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_HOST = {"type": "string", "minLength": 1}
_HTTP_URL = patterned("[Hh][Tt][Tt][Pp][Ss]?://[^ #@]+")

ListenAddress = Annotated[Address, Written(address, _ADDRESS, "host:port or unix:/path")]
AdminAddress = Annotated[
    Address | None,
    Written(admin_address, {"anyOf": [_ADDRESS, {"const": "off"}, {"const": False}]}, "host:port, unix:/path or off"),
]
ListenList = comma_list(_ADDRESS)
NetworkText = Annotated[Network, Written(network, _NETWORK, "an IP address or a network")]
NetworkList = comma_list(_NETWORK)
AllowedHost = Annotated[bytes, Written(allowed_host, _HOST, "a host name")]
HostList = comma_list(_HOST)
RouteHost = Annotated[str, Written(route_host, _HOST, "a host name")]
OriginText = Annotated[bytes, Written(origin, _HTTP_URL, "an origin")]
OriginList = comma_list(_HTTP_URL)
ProxyUrl = Annotated[HttpProxy, Written(proxy_url, patterned("[Hh][Tt][Tt][Pp]://[^ ]+:[0-9]+/?"), "a URL")]
IssuerUrl = Annotated[Url, Written(issuer_url, _HTTP_URL, "a URL")]
TokenUrl = Annotated[Url, Written(url, _HTTP_URL, "a URL")]
UpstreamUrl = Annotated[Url, Written(upstream_url, _HTTP_URL, "a URL")]
ResourceUri = Annotated[str, Written(resource, {"type": "string", "minLength": 1}, "a URI")]
