"""What is odd about the answers of an authorization server although they are used: told once for each change.

A scope that was asked for and not granted, a clock that is far from ours, an `expires_in` that cannot be read, a way to
authenticate that is not listed: each would otherwise be repeated with every token. Nothing here changes what the gateway does.

Source: RFC 6749 §3.3 and §5.1 (a narrowed scope is told; scopes are compared as sets).
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.tokens import journal
from proxy.tokens.access_token import CredentialName
from proxy.units import SECONDS

CLOCK_SKEW_WARNING_S = 60 * SECONDS  # tokens checked by `nbf` or `exp` begin to fail about there


def missing_scopes(requested: str | None, granted: str | None) -> tuple[str, ...]:
    """Returns the scopes that were asked for and not granted, sorted; none where the reply told no scope."""
    if granted is None:
        return ()
    return tuple(sorted(set((requested or "").split()) - set(granted.split())))


def far_apart(clock_skew_s: float | None) -> bool:
    """Tells whether the authorization server's clock is so far from ours that an operator should know."""
    return clock_skew_s is not None and abs(clock_skew_s) > CLOCK_SKEW_WARNING_S


class Notices:
    """One token's oddities as they stand."""

    __slots__ = ("_told", "clock_skew_s", "scope_missing")

    def __init__(self) -> None:
        self.clock_skew_s: float | None = None  # authorization server's clock minus ours
        self.scope_missing: tuple[str, ...] = ()
        self._told: dict[str, object] = {}

    def clock(self, names: Sequence[CredentialName], skew_s: float | None) -> None:
        """Takes what a reply told of the server's clock. It is for people: no deadline depends on it."""
        if skew_s is None:
            return
        self.clock_skew_s = skew_s
        far = far_apart(skew_s)
        if self._news("clock", far):
            journal.clocks_apart(names, skew_s, far=far)

    def scope(self, requested: str | None, granted: str | None) -> tuple[str, ...]:
        """Takes what was granted; returns the scopes that are missing, if they are others than the last time."""
        self.scope_missing = missing_scopes(requested, granted)
        return self.scope_missing if self._news("scope", self.scope_missing) else ()

    def warning(self, warning: str | None) -> str | None:
        """Takes what else is odd about a grant; returns it, if it is not the same as the last time."""
        return warning if self._news("warning", warning) else None

    def _news(self, kind: str, state: object) -> bool:
        """Tells whether an oddity is another than the last time; what counts as false is none."""
        before = self._told.get(kind)
        self._told[kind] = state
        return bool(state or before) and state != before
