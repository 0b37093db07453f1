"""One configuration made ready for requests: everything that a decision reads, reached without a look-up by name.

Built once per configuration from ``Settings`` and the running parts (token sources, pools, metrics); never changed
afterwards, apart from the counters, buckets and pools it refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.gateway.access import Access, Peer, Visitor
from proxy.gateway.rate_limit import Bucket
from proxy.gateway.repeated import Repeated
from proxy.gateway.rescue import RetryBudget
from proxy.gateway.rewrite import RequestRules, ResponseRules
from proxy.gateway.settings import Limits, Settings
from proxy.metrics import GatewayMetrics, RouteMetrics
from proxy.routing import Route, RouteName, RouteTable
from proxy.tokens.access_token import CredentialName
from proxy.tokens.source import TokenSource
from proxy.upstream.pool import Pool

_MEMO_VISITORS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """A route with all that serving it takes."""

    route: Route
    request_rules: RequestRules
    response_rules: ResponseRules
    source: TokenSource | None  # None with `credential: none`
    pool: Pool
    metrics: RouteMetrics
    access: Access | None  # the route's own, narrower rules
    body_limit: int  # octets, 0 = unlimited
    bucket: Bucket | None
    retry_budget: RetryBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One whole configuration in force."""

    access: Access
    limits: Limits
    table: RouteTable
    plans: dict[RouteName, RoutePlan]
    metrics: GatewayMetrics
    repeated: Repeated = field(default_factory=Repeated, repr=False)
    _visitors: dict[tuple[bytes, bool], Visitor] = field(default_factory=dict, repr=False)

    def visitor(self, peer: Peer, *, secure: bool) -> Visitor:
        """Returns what this configuration says of a connection's other end; the same for all of one address."""
        key = (peer.key, secure)
        visitor = self._visitors.get(key)
        if visitor is None:
            if len(self._visitors) >= _MEMO_VISITORS:
                self._visitors.clear()
            visitor = self._visitors[key] = Visitor.of(peer, self.access, secure=secure)
        return visitor


def compiled(
    settings: Settings,
    sources: Mapping[CredentialName, TokenSource],
    pool_for: Callable[[Route], Pool],
    metrics: GatewayMetrics,
) -> Snapshot:
    """Returns the snapshot of a configuration. Raises ConfigurationError if two routes could tie."""
    route_hosts = tuple(route.match.host.encode("ascii") for route in settings.routes if route.match.host is not None)
    keys = [rules.required_header for rules in (settings.access, *settings.route_access.values())]
    plans: dict[RouteName, RoutePlan] = {}
    for route in settings.routes:
        own = settings.route_access.get(route.name)
        own_hosts = () if route.match.host is None else (route.match.host.encode("ascii"),)
        plans[route.name] = RoutePlan(
            route=route,
            request_rules=RequestRules(route, [key.name for key in keys if key is not None]),
            response_rules=ResponseRules(route),
            source=None if route.credential is None else sources[route.credential],
            pool=pool_for(route),
            metrics=metrics.route(route.name),
            access=None if own is None else Access(own, own_hosts),
            body_limit=settings.route_body_bytes.get(route.name, settings.limits.body_bytes),
            bucket=None if route.rate_limit is None else Bucket(route.rate_limit),
            retry_budget=RetryBudget(route.retries.budget),
        )
    return Snapshot(
        access=Access(settings.access, route_hosts),
        limits=settings.limits,
        table=RouteTable(settings.routes),
        plans=plans,
        metrics=metrics,
    )
