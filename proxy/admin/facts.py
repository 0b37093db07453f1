"""What the admin listener is allowed to know: plain values, asked for at each request.

The composition root fills it in. Nothing here can reach a secret or a token: a ``TokenStatus`` holds none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.metrics import GatewayMetrics
from proxy.routing import Route
from proxy.tokens.source import TokenStatus


class ConnectionCounts(Protocol):
    """How many connections of a pool are in each state."""

    @property
    def connecting(self) -> int:
        """Being opened."""

    @property
    def idle(self) -> int:
        """Open, free."""

    @property
    def busy(self) -> int:
        """In an exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminFacts:
    """Where each fact comes from. All callables are O(what they return), wait for nothing and raise nothing."""

    metrics: Callable[[], GatewayMetrics]
    tokens: Callable[[], Sequence[TokenStatus]]
    routes: Callable[[], Sequence[Route]]
    connections: Callable[[], Mapping[str, ConnectionCounts]]  # by name of the route, or of the first that share them
    draining: Callable[[], bool]
    log_lines_dropped: Callable[[], int]
    allowed_hosts: Callable[[], Iterable[bytes]]  # lower-case, no port; `*` admits any, `*.example` all below it
