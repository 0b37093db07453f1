"""Facts for the admin listener, as values that a test can change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from proxy.admin.facts import AdminFacts
from proxy.metrics import GatewayMetrics
from proxy.oauth.response import Outcome
from proxy.routing import Match, Route, RouteName
from proxy.tokens.access_token import CredentialName, TokenState
from proxy.tokens.source import Durations, Lookups, TokenStatus
from proxy.upstream.origin import Origin

WITHOUT_TOKEN = TokenStatus(
    name=CredentialName("orders"),
    required=True,
    ready=False,
    state=TokenState.NONE,
    scope=None,
    lifetime_s=None,
    obtained_ago_s=None,
    usable_for_s=None,
    expires_at_wall_s=None,
    next_refresh_at_wall_s=None,
    next_try_in_s=0.0,
    consecutive_failures=0,
    last_outcome=None,
    last_error=None,
    clock_skew_s=None,
    scope_missing=(),
    client_secrets=0,
    client_secret_in_use=None,
    lookups=Lookups(),
    requests=dict.fromkeys(Outcome, 0),
    durations=Durations(),
    shares_with=None,
)
FRESH = replace(
    WITHOUT_TOKEN,
    ready=True,
    state=TokenState.FRESH,
    scope="orders.read",
    lifetime_s=3600.0,
    obtained_ago_s=600.0,
    usable_for_s=2990.0,
    expires_at_wall_s=1_700_003_000.0,
    next_refresh_at_wall_s=1_700_002_280.5,
    next_try_in_s=2280.5,
    last_outcome=Outcome.OK,
    clock_skew_s=-1.5,
    lookups=Lookups(ready=7, waited=2, failed=1),
    requests={**dict.fromkeys(Outcome, 0), Outcome.OK: 3, Outcome.CONNECT: 1},
    durations=Durations(counts=(0, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1), sum_s=62.25),
)
ORDERS = Route(
    name=RouteName("orders"),
    match=Match(path_prefix=b"/orders", host="shop.example", methods=frozenset({b"POST", b"GET"})),
    upstream=Origin("https", "api.example", 443),
    base_path=b"/v1",
    credential=CredentialName("orders"),
)
OPEN = Route(
    name=RouteName("open"),
    match=Match(path_exact=b"/open"),
    upstream=Origin("http", "::1", 8081),
    credential=None,
)


@dataclass
class Counts:
    connecting: int = 0
    idle: int = 0
    busy: int = 0


@dataclass
class Facts:
    """What a test arranges."""

    tokens: list[TokenStatus] = field(default_factory=lambda: [FRESH])
    routes: list[Route] = field(default_factory=lambda: [ORDERS, OPEN])
    connections: dict[str, Any] = field(default_factory=lambda: {"orders": Counts(1, 2, 3), "open": Counts()})
    draining: bool = False
    log_lines_dropped: int = 0
    allowed_hosts: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        self.metrics = GatewayMetrics([route.name for route in self.routes])

    def admin_facts(self) -> AdminFacts:
        """Returns them as the listener asks for them."""
        return AdminFacts(
            metrics=lambda: self.metrics,
            tokens=lambda: self.tokens,
            routes=lambda: self.routes,
            connections=lambda: self.connections,
            draining=lambda: self.draining,
            log_lines_dropped=lambda: self.log_lines_dropped,
            allowed_hosts=lambda: self.allowed_hosts,
        )
