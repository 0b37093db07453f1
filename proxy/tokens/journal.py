"""The one log line of each token request, for operators: what came of it, and what follows. No secret, no token."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from proxy.oauth.response import TokenRequestError
from proxy.tokens.access_token import AccessToken, CredentialName

_log = logging.getLogger("proxy.tokens")


def token_obtained(
    credentials: Sequence[CredentialName],
    token: AccessToken,
    *,
    now_s: float,
    requested_scope: str | None,
    failures_before: int,
    forced: bool,
    warning: str | None,
) -> None:
    """Writes the line of a request that brought a token; as a warning if it is not quite what was asked for.

    `forced`: the upstream had refused the former token. Scopes are compared as sets (RFC 6749 §3.3).
    """
    missing = set((requested_scope or "").split()) - set((token.scope or "").split())
    _write(
        logging.WARNING if missing or warning is not None else logging.INFO,
        "access token obtained",
        {
            "credential": ",".join(credentials),
            "lifetime_s": token.lifetime_s,
            "next_refresh_in_s": round(max(token.due_at_s - now_s, 0.0), 3),
            "failures_before": failures_before or None,
            "refused_by_upstream": forced or None,
            "scope_missing": " ".join(sorted(missing)) or None,
            "warning": warning,
        },
    )


def request_failed(
    credentials: Sequence[CredentialName],
    error: TokenRequestError,
    *,
    failures: int,
    next_try_in_s: float,
    token_usable_for_s: float,
    forced: bool,
) -> None:
    """Writes the line of a request that brought none."""
    _write(
        logging.WARNING,
        f"no access token: {error.outcome.value}",
        {
            "credential": ",".join(credentials),
            "outcome": error.outcome.value,
            "error": error.error_code,
            "reason": error.detail,
            "description": error.description,
            "hint": error.hint,
            "failures": failures,
            "refused_by_upstream": forced or None,
            "next_try_in_s": round(next_try_in_s, 3),
            "token_usable_for_s": round(token_usable_for_s, 3),
        },
    )


def _write(level: int, message: str, fields: dict[str, object | None]) -> None:
    told = {name: value for name, value in fields.items() if value is not None}
    _log.log(level, message, extra={"fields": told})
