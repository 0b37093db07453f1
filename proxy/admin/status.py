"""The status document: what runs here and how its credentials stand, for operators and their scripts.

Times left, states, counts and configuration names. No secret, no token and no part of one; of a failure its class only,
since an authorization server's words may quote what it was sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from proxy.admin.facts import AdminFacts
from proxy.admin.health import readiness
from proxy.oauth.response import Outcome
from proxy.routing import Match, Route
from proxy.tokens.access_token import TokenState
from proxy.tokens.source import TokenStatus, outage_budget_s

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def status_document(facts: AdminFacts, *, version: str, uptime_s: float) -> Json:
    """Returns the document. Durations are seconds, instants RFC 3339 in UTC; null = there is none."""
    tokens = facts.tokens()
    draining = facts.draining()
    return {
        "version": version,
        "uptime_s": _seconds(uptime_s),
        "ready": readiness(tokens, draining=draining).ready,
        "draining": draining,
        "outage_budget_s": _seconds(outage_budget_s(tokens)),
        "credential_states": _states(tokens),
        "credentials": [_credential(status) for status in tokens],
        "routes": [_route(route) for route in facts.routes()],
    }


def _states(tokens: Iterable[TokenStatus]) -> Json:
    counts: dict[str, Json] = {}
    for state in TokenState:
        counts[state.value] = sum(status.state is state for status in tokens)
    return counts


def _credential(status: TokenStatus) -> Json:
    failed = status.last_outcome not in {None, Outcome.OK}
    return {
        "name": status.name,
        "state": status.state.value,
        "required": status.required,
        "ready": status.ready,
        "shares_token_with": status.shares_with,
        "lifetime_s": _seconds(status.lifetime_s),
        "obtained_ago_s": _seconds(status.obtained_ago_s),
        "usable_for_s": _seconds(status.usable_for_s),
        "expires_at": _instant(status.expires_at_wall_s),
        "next_refresh_at": _instant(status.next_refresh_at_wall_s),
        "next_try_in_s": _seconds(status.next_try_in_s),
        "scopes_missing": list(status.scope_missing),
        "client_secret_in_use": status.client_secret_in_use,
        "consecutive_failures": status.consecutive_failures,
        "last_error": status.last_outcome.value if failed and status.last_outcome is not None else None,
    }


def _route(route: Route) -> Json:
    return {
        "name": route.name,
        "match": _match(route.match),
        "upstream": f"{route.upstream.scheme}://{route.upstream.authority.decode('ascii')}",
        "credential": route.credential or "none",
    }


def _match(match: Match) -> Json:
    shown: dict[str, Json] = {}
    if match.host is not None:
        shown["host"] = match.host
    if match.path_exact is not None:
        shown["path_exact"] = match.path_exact.decode("latin-1")
    if match.path_prefix is not None:
        shown["path_prefix"] = match.path_prefix.decode("latin-1")
    if match.methods is not None:
        shown["methods"] = [*sorted(method.decode("latin-1") for method in match.methods)]
    return shown


def _seconds(value: float | None) -> float | None:
    # a token without an end has infinite life, which JSON cannot say
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _instant(wall_s: float | None) -> str | None:
    if wall_s is None:
        return None
    try:
        moment = datetime.fromtimestamp(wall_s, UTC)
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return None
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
