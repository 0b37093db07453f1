"""Routes for tests of the pure parts."""

from __future__ import annotations

from typing import Any

from proxy.routing import Match, Route, RouteName
from proxy.tokens.access_token import CredentialName
from proxy.upstream.origin import Origin


def route(prefix: bytes = b"/orders", **changes: Any) -> Route:
    """Returns a route /orders -> https://api.example/v1, stripped, with credential `main`."""
    facts: dict[str, Any] = {
        "name": RouteName("orders"),
        "match": Match(path_prefix=prefix),
        "upstream": Origin("https", "api.example", 443),
        "base_path": b"/v1",
        "strip_prefix": True,
        "credential": CredentialName("main"),
    }
    return Route(**(facts | changes))
