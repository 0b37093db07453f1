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
    failures_before: int,
    forced: bool,
    same_token: bool,
    scope_missing: Sequence[str],
    warning: str | None,
) -> None:
    """Writes the line of a request that brought a token; as a warning if it is not quite what was asked for.

    `forced`: the upstream had refused the former token. `same_token`: it is the one in use once more.
    """
    _write(
        logging.WARNING if scope_missing or warning is not None else logging.INFO,
        "access token obtained",
        {
            "credential": ",".join(credentials),
            "lifetime_s": token.lifetime_s,
            "next_refresh_in_s": round(max(token.due_at_s - now_s, 0.0), 3),
            "failures_before": failures_before or None,
            "refused_by_upstream": forced or None,
            "same_token": same_token or None,
            "scope_missing": " ".join(scope_missing) or None,
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
            "stage": error.stage.value,
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


def secret_refused(credentials: Sequence[CredentialName], error: TokenRequestError) -> None:
    """Writes that one of two secrets in overlap was refused, and that the other one is tried now."""
    _write(
        logging.WARNING,
        f"a client secret is refused: {error.outcome.value}; trying the other one",
        {"credential": ",".join(credentials), "reason": error.detail},
    )


def clocks_apart(credentials: Sequence[CredentialName], clock_skew_s: float, *, far: bool) -> None:
    """Writes that the authorization server's clock went far from ours, or came back."""
    _write(
        logging.WARNING if far else logging.INFO,
        "the authorization server's clock is far from ours"
        if far
        else "the authorization server's clock is right again",
        {"credential": ",".join(credentials), "ahead_s": round(clock_skew_s, 1)},
    )


def _write(level: int, message: str, fields: dict[str, object | None]) -> None:
    told = {name: value for name, value in fields.items() if value is not None}
    _log.log(level, message, extra={"fields": told})
