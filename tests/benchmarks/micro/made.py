"""What the micro-benchmarks work on: a snapshot with its token, and heads as clients and upstreams send them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

from proxy.clock import SystemClock
from proxy.config.load import load
from proxy.gateway.access import Access, Peer, Visitor
from proxy.gateway.settings import AccessRules, Settings
from proxy.gateway.snapshot import Snapshot, compiled
from proxy.metrics import GatewayMetrics
from proxy.oauth.registration import Registration
from proxy.oauth.response import TokenGrant
from proxy.routing import Match, Route, RouteName
from proxy.secret import Secret
from proxy.tasks import Tasks
from proxy.tokens.keepers import Keepers
from proxy.upstream.pool import Pool, PoolKey, Pools

Result = TypeVar("Result")

REQUEST = (
    b"GET /orders/7?page=2 HTTP/1.1\r\n"
    b"Host: localhost:8080\r\n"
    b"User-Agent: legacy-app/1.0\r\n"
    b"Accept: application/json\r\n"
    b"Accept-Encoding: gzip\r\n"
    b"Connection: keep-alive\r\n"
    b"\r\n"
)
LONG_REQUEST = REQUEST[:-2] + b"".join(b"X-More-%d: the value of one more header\r\n" % n for n in range(20)) + b"\r\n"
RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: nginx\r\n"
    b"Date: Mon, 02 Mar 2026 10:00:00 GMT\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: 1024\r\n"
    b"Connection: keep-alive\r\n"
    b"Cache-Control: no-store\r\n"
    b"\r\n"
)
VISITOR = Visitor.of(Peer(ip_address("127.0.0.1")), Access(AccessRules()), secure=False)
REQUEST_ID = b"0123456789abcdef0123456789abcdef"
CONFIGURATION = """\
version: 1
credentials:
  orders: {token_endpoint: "http://127.0.0.1:1/token", client_id: a, client_secret: "${SECRET}"}
routes:
  - {name: orders, match: {path_prefix: /orders}, upstream: "http://127.0.0.1:1", credential: orders}
"""


class Benchmark(Protocol):
    """The fixture of pytest-benchmark, as far as it is used here."""

    def __call__(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Calls the function many times, and returns what it returned."""


def snapshot(routes: int = 1) -> Snapshot:
    """Returns a configuration in force with as many routes, whose credential holds a token for an hour."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "proxy.yaml"
        file.write_text(CONFIGURATION, encoding="utf-8")
        settings = load(file, environ={"SECRET": "secret"}, use_env_file=False).settings
    return asyncio.run(_in_force(_with_routes(settings, routes)))


def _with_routes(settings: Settings, count: int) -> Settings:
    first = settings.routes[0]
    more = (
        dataclasses.replace(
            first, name=RouteName(f"route-{number}"), match=Match(path_prefix=b"/route/%d/of/many" % number)
        )
        for number in range(1, count)
    )
    return dataclasses.replace(settings, routes=(first, *more))


async def _in_force(settings: Settings) -> Snapshot:
    clock, pools = SystemClock(), Pools(SystemClock())
    chance = random.SystemRandom().random
    keepers = Keepers(settings.credentials, request=_granted, clock=clock, tasks=Tasks(), random=chance)
    await next(iter(keepers.sources.values())).obtain(5.0)

    def pool(route: Route) -> Pool:
        key = PoolKey(origin=route.upstream, tls=route.tls, limits=route.pool)
        return pools.get(key, max_head_octets=settings.limits.head_bytes, max_fields=settings.limits.field_count)

    metrics = GatewayMetrics(route.name for route in settings.routes)
    return compiled(settings, keepers.sources, pool, metrics)


async def _granted(_registration: Registration) -> TokenGrant:
    return TokenGrant(access_token=Secret(secrets.token_hex(32)), expires_in=3600.0)
