"""Routes, and which of them serves a request.

``Route`` is everything that the configuration says of a route, as a value. ``RouteTable`` is compiled once per
configuration; a match costs a few dictionary look-ups, however many routes there are, and is decided on the path's own
bytes: nothing is decoded or normalised here, and ambiguous paths are refused elsewhere (``http1.target.ambiguity``).

Order: host (exact, then the longest wildcard, then none), then the exact path, then the longest prefix at a segment
boundary. The first place where the path matches decides: if no route for this host and path takes the method, the
answer is 405, not a less specific route, which might carry a mightier credential.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from proxy.errors import ConfigurationError
from proxy.secret import SecretSource
from proxy.tls import TlsSettings
from proxy.tokens.access_token import CredentialName
from proxy.units import HOURS, KIB, SECONDS
from proxy.upstream.origin import Origin
from proxy.upstream.pool import PoolLimits

RouteName = NewType("RouteName", str)
HeaderSet = tuple[tuple[bytes, SecretSource], ...]  # name as written, value


class ClientAuthorization(StrEnum):
    """What becomes of an Authorization field that the client sends itself."""

    REPLACE = "replace"  # ours takes its place
    REFUSE = "refuse"  # 400
    PASS = "pass"  # forwarded; only without a credential  # noqa: S105  # not a password
    REMOVE = "remove"  # the default without a credential


class PathPolicy(StrEnum):
    """Whether ambiguous paths are refused."""

    STRICT = "strict"
    RAW = "raw"


class UnderscoreFields(StrEnum):
    """What becomes of field names with `_`, which some upstreams read as `-`."""

    TWINS = "twins"  # refused if it could pass as a field that the gateway sets, removes or frames by
    REFUSE = "refuse"
    DROP = "drop"


class HostHeader(StrEnum):
    """Whose name the upstream sees in Host."""

    UPSTREAM = "upstream"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class LiteralHost:
    """A Host written in the configuration."""

    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a route is for. Without a path it is for every path; at most one of the two paths is given."""

    host: str | None = None  # lower-case, no port: "api.example", "[::1]", or "*.example" for one or more labels more
    path_prefix: bytes | None = None  # ends at a segment boundary: /orders is not for /ordersx
    path_exact: bytes | None = None
    methods: frozenset[bytes] | None = None  # None = every method; GET admits HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class OnUnauthorized:
    """What a 401 from the upstream sets going."""

    replay: bool = True
    max_replay_body: int = 64 * KIB  # octets; a longer body is not held, so not sent again


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Bounds of one request's steps, in seconds; zero means no bound."""

    token_s: float = 5 * SECONDS
    connect_s: float = 5 * SECONDS
    first_byte_s: float = 60 * SECONDS
    idle_s: float = 60 * SECONDS
    tunnel_idle_s: float = 1 * HOURS
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a request may be sent again when nothing of it can have been processed."""

    connect: int = 2
    budget: float = 0.2  # retries per request, in the long run


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """What the gateway tells the upstream of the client."""

    via: bool = True
    x_forwarded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A token bucket for all of a route's requests."""

    requests_per_second: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route, with everything that serving it takes. The defaults are those of the configuration file."""

    name: RouteName
    match: Match
    upstream: Origin
    credential: CredentialName | None  # None = the request goes without a token of ours
    base_path: bytes = b""  # the upstream URL's path, as written
    strip_prefix: bool = False
    client_authorization: ClientAuthorization = ClientAuthorization.REPLACE
    header_name: bytes = b"Authorization"  # the field that carries the token
    host_header: HostHeader | LiteralHost = HostHeader.UPSTREAM
    forwarding: Forwarding = Forwarding()
    rewrite_location: bool = True
    set_request_headers: HeaderSet = field(default=(), repr=False)
    remove_request_headers: frozenset[bytes] = frozenset()  # lower-case
    set_response_headers: HeaderSet = field(default=(), repr=False)
    remove_response_headers: frozenset[bytes] = frozenset()  # lower-case
    path_policy: PathPolicy = PathPolicy.STRICT
    underscore_fields: UnderscoreFields = UnderscoreFields.TWINS
    on_unauthorized: OnUnauthorized = OnUnauthorized()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    pool: PoolLimits = field(default_factory=PoolLimits)
    tls: TlsSettings | None = None  # None = the defaults of the scheme
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class Matched:
    """The route that serves the request."""

    route: Route


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """The path is known, the method is not among those it takes: `allow`, sorted."""

    allow: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No route is for this host and path."""


RouteMatch = Matched | WrongMethod | NoRoute
_NO_ROUTE = NoRoute()


class RouteTable:
    """The routes of one configuration, compiled for matching. Immutable after construction."""

    __slots__ = ("_any_host", "_exact_hosts", "_longest_suffix", "_suffixes")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Compiles the table. Raises ConfigurationError for two routes that could tie, or a match that cannot be."""
        hosts: dict[str | None, _Paths] = {}
        for route in routes:
            _check(route)
            hosts.setdefault(route.match.host, _Paths()).add(route)
        for paths in hosts.values():
            paths.finish()
        self._any_host = hosts.pop(None, None)
        self._exact_hosts: dict[bytes, _Paths] = {}
        self._suffixes: dict[bytes, _Paths] = {}  # ".example" for "*.example"
        for host, paths in hosts.items():
            assert host is not None
            if host.startswith("*"):
                self._suffixes[host[1:].encode("ascii")] = paths
            else:
                self._exact_hosts[host.encode("ascii")] = paths
        self._longest_suffix = max(map(len, self._suffixes), default=0)

    def match(self, host: bytes | None, path: bytes, method: bytes) -> RouteMatch:
        """Returns the route for a request, or why there is none.

        `host` is lower-case without port, None where the request names none; `path` is the target's path as received.
        Cost: dictionary look-ups by host, by path and by the path's segment boundaries up to the longest prefix
        configured; it does not grow with the number of routes.
        """
        if host is not None:
            if (paths := self._exact_hosts.get(host)) is not None and (slot := paths.find(path)) is not None:
                return slot.serve(method)
            if self._suffixes and (slot := self._below_wildcard(host, path)) is not None:
                return slot.serve(method)
        if self._any_host is not None and (slot := self._any_host.find(path)) is not None:
            return slot.serve(method)
        return _NO_ROUTE

    def _below_wildcard(self, host: bytes, path: bytes) -> _Slot | None:
        dot = host.find(b".", max(1, len(host) - self._longest_suffix))  # from 1: at least one label stands for `*`
        while dot > 0:
            if (paths := self._suffixes.get(host[dot:])) is not None and (slot := paths.find(path)) is not None:
                return slot
            dot = host.find(b".", dot + 1)
        return None


class _Slot:
    """The routes of one host and one path, told apart by method."""

    __slots__ = ("_any_method", "_by_method", "_wrong")

    def __init__(self) -> None:
        self._any_method: Matched | None = None
        self._by_method: dict[bytes, Matched] = {}
        self._wrong = WrongMethod(())

    def add(self, route: Route) -> None:
        found = Matched(route)
        if route.match.methods is None:
            for other in (self._any_method, *self._by_method.values()):
                _refuse_tie(route, other)
            self._any_method = found
            return
        methods = route.match.methods | ({b"HEAD"} if b"GET" in route.match.methods else frozenset())
        for method in sorted(methods):
            _refuse_tie(route, self._any_method)
            _refuse_tie(route, self._by_method.get(method))
        self._by_method.update(dict.fromkeys(methods, found))

    def fall_back_on(self, other: _Slot) -> None:
        """Lets the other slot's routes, for the same path, serve the methods that no route here takes."""
        if self._any_method is None:
            self._any_method = other._any_method
            self._by_method = {**other._by_method, **self._by_method}

    def finish(self) -> None:
        self._wrong = WrongMethod(tuple(sorted(self._by_method)))

    def serve(self, method: bytes) -> Matched | WrongMethod:
        return self._by_method.get(method) or self._any_method or self._wrong


class _Paths:
    """The paths of one host."""

    __slots__ = ("_exact", "_longest_prefix", "_prefixes")

    def __init__(self) -> None:
        self._exact: dict[bytes, _Slot] = {}
        self._prefixes: dict[bytes, _Slot] = {}
        self._longest_prefix = 0

    def add(self, route: Route) -> None:
        if route.match.path_exact is not None:
            self._exact.setdefault(route.match.path_exact, _Slot()).add(route)
        else:
            self._prefixes.setdefault(route.match.path_prefix or b"/", _Slot()).add(route)

    def finish(self) -> None:
        for path, slot in self._exact.items():
            if (same := self._prefixes.get(path)) is not None:
                slot.fall_back_on(same)
        for slot in (*self._exact.values(), *self._prefixes.values()):
            slot.finish()
        self._longest_prefix = max(map(len, self._prefixes), default=0)

    def find(self, path: bytes) -> _Slot | None:
        if (slot := self._exact.get(path)) is not None:
            return slot
        prefixes, longest = self._prefixes, self._longest_prefix
        if not longest:
            return None
        if len(path) <= longest and (slot := prefixes.get(path)) is not None:
            return slot
        # from the longest boundary that a prefix could end at, back to the root
        cut = path.rfind(b"/", 0, longest + 1)
        while cut >= 0:
            if (slot := prefixes.get(path[: cut + 1]) or prefixes.get(path[:cut])) is not None:
                return slot
            cut = path.rfind(b"/", 0, cut)
        return None


def _check(route: Route) -> None:
    """Raises ConfigurationError for a match that could never serve."""
    match = route.match
    paths = [path for path in (match.path_prefix, match.path_exact) if path is not None]
    if len(paths) > 1:
        raise ConfigurationError(f"route {route.name}: path_prefix and path_exact exclude each other")
    if not all(path.startswith(b"/") for path in paths):
        raise ConfigurationError(f"route {route.name}: a path begins with /")
    if match.host is not None:
        name = match.host.removeprefix("*.")
        if not name or not name.isascii() or "*" in name or name != name.lower():
            raise ConfigurationError(f"route {route.name}: a host is a lower-case name, or *. and a name")
    if match.methods is not None and not match.methods:
        raise ConfigurationError(f"route {route.name}: the list of methods is empty")


def _refuse_tie(route: Route, other: Matched | None) -> None:
    if other is not None and other.route is not route:
        names = f"{other.route.name} and {route.name}"
        raise ConfigurationError(f"routes {names} match the same requests: same host, same path, a common method")
