"""The composition root: from ``Settings`` to a gateway that serves. The one place where every part is known.

One token cache for all routes: credentials that are alike in all they send share one keeper. Routes alike in all that
makes connections interchangeable share one pool.
"""

from __future__ import annotations

import logging
import random
import secrets

import aiohttp.http_parser

from proxy import log
from proxy.admin.facts import AdminFacts
from proxy.admin.server import AdminServer
from proxy.clock import Clock
from proxy.errors import ConfigurationError
from proxy.gateway.handler import Handler
from proxy.gateway.record import RefusalRecorder
from proxy.gateway.server import GatewayServer
from proxy.gateway.settings import Address, Settings
from proxy.gateway.snapshot import compiled
from proxy.metrics import GatewayMetrics
from proxy.oauth.client import TokenEndpointClient
from proxy.routing import Route
from proxy.tasks import Tasks
from proxy.tokens.keepers import Keepers
from proxy.upstream.pool import Pool, PoolCounts, PoolKey, Pools

_log = logging.getLogger("proxy.process")


class Gateway:
    """A whole gateway: start, serve, drain, stop. Lives in one event loop."""

    def __init__(self, settings: Settings, clock: Clock, *, direct: bool = True) -> None:
        """`direct` lets plain requests take the direct path; without it the result is the same, at a higher cost."""
        self._settings = settings
        self._direct = direct
        self._clock = clock
        self._tasks = Tasks()
        self._metrics = GatewayMetrics(route.name for route in settings.routes)
        self._pools = Pools(clock)
        self._token_client = TokenEndpointClient(clock)
        self._keepers = Keepers(
            settings.credentials,
            request=self._token_client.request,
            clock=clock,
            tasks=self._tasks,
            random=random.SystemRandom().random,
        )
        self.snapshot = compiled(settings, self._keepers.sources, self._pool, self._metrics)
        self._handler: Handler | None = None
        self._server: GatewayServer | None = None
        self._admin: AdminServer | None = None

    @property
    def addresses(self) -> list[Address]:
        """Returns the proxy listeners' addresses as bound."""
        return [] if self._server is None else self._server.addresses

    @property
    def admin_address(self) -> str | None:
        """Returns the admin listener's address as bound, None if it is off."""
        return None if self._admin is None else self._admin.address

    @property
    def in_flight(self) -> int:
        """Returns how many requests are being served."""
        return 0 if self._handler is None else len(self._handler.traffic)

    @property
    def server(self) -> GatewayServer:
        """Returns the listeners' side. Raises AssertionError before `start`."""
        assert self._server is not None
        return self._server

    async def start(self) -> None:
        """Opens the listeners and asks for the first tokens; does not wait for them.

        Raises ConfigurationError if an address cannot be had or a file cannot be used.
        """
        check_parser()
        self._handler = Handler(
            self.snapshot, clock=self._clock, tasks=self._tasks, new_request_id=new_request_id, log=self._settings.log
        )
        refusals = RefusalRecorder(self._metrics, self._settings.log, new_request_id)
        self._server = GatewayServer(
            self._handler,
            limits=self._settings.limits,
            refusals=refusals,
            clock=self._clock,
            tasks=self._tasks,
            tls=self._settings.tls,
            direct=self._direct,
        )
        if self._settings.admin is not None:
            self._admin = AdminServer(self._settings.admin, self._facts(), self._clock)
            await self._admin.start()
        await self._server.listen(self._settings.listen)
        self._keepers.start()

    def hurry(self) -> None:
        """Ends the waiting of a `stop` under way."""
        if self._server is not None:
            self._server.hurry()

    def begin_draining(self) -> None:
        """Turns readiness off; still accepts."""
        if self._handler is not None:
            self._handler.traffic.draining = True

    async def stop(self, drain_timeout_s: float) -> bool:
        """Drains and ends everything; returns False if requests had to be cut off after the timeout, in seconds."""
        self.begin_draining()
        finished = True
        if self._server is not None:
            finished = await self._server.drain(drain_timeout_s)
        await self._keepers.stop()
        await self._tasks.stop()
        await self._pools.close()
        await self._token_client.close()
        if self._admin is not None:
            await self._admin.stop()
        return finished

    def _pool(self, route: Route) -> Pool:
        return self._pools.get(
            PoolKey(origin=route.upstream, tls=route.tls, limits=route.pool),
            max_head_octets=self._settings.limits.head_bytes,
            max_fields=self._settings.limits.field_count,
        )

    def _connections(self) -> dict[str, PoolCounts]:
        """Returns each pool's counts, once: under the first route that uses it, so that a sum over all is true."""
        first: dict[Pool, str] = {}
        for name, plan in self.snapshot.plans.items():
            first.setdefault(plan.pool, name)
        return {name: pool.counts() for pool, name in first.items()}

    def _facts(self) -> AdminFacts:
        return AdminFacts(
            metrics=lambda: self._metrics,
            tokens=self._keepers.statuses,
            routes=lambda: self._settings.routes,
            connections=self._connections,
            draining=lambda: self._handler is not None and self._handler.traffic.draining,
            log_lines_dropped=log.dropped,
            allowed_hosts=lambda: self._settings.access.allowed_hosts,
        )


_random_bits = random.Random(secrets.randbits(256)).getrandbits  # noqa: S311  # an id is no secret; no system call each


def new_request_id() -> bytes:
    """Returns a request id: 128 random bits in hexadecimal."""
    return b"%032x" % _random_bits(128)


def check_parser() -> None:
    """Refuses to start without aiohttp's C parser: advisories on request smuggling concern its stand-in alone."""
    parser = aiohttp.http_parser.HttpRequestParser
    if parser is aiohttp.http_parser.HttpRequestParserPy:
        raise ConfigurationError("aiohttp runs without its C parser here; install a wheel of it that has one")
