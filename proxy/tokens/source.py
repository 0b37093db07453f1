"""The seam between those who need a token and those who get it: ``TokenSource``.

The gateway knows no more of tokens than this. A source answers for one credential: at once (``current``), after a wait
(``obtain``), or for a token that the upstream refused (``replace``); ``status`` is all that metrics, health and pages
may see, and holds no secret and no token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from proxy.errors import ErrorType, GatewayError, Side
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome
from proxy.tokens.access_token import AccessToken, CredentialName, TokenState
from proxy.tokens.lifetime import Backoff, RefreshPolicy

# seconds; the upper bounds of the histogram, all but the last, which has none
DURATION_BUCKETS_S: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSettings:
    """How one credential gets its token and keeps it."""

    name: CredentialName
    registration: Registration
    refresh: RefreshPolicy = field(default_factory=RefreshPolicy)
    backoff: Backoff = field(default_factory=Backoff)
    required: bool = True  # the first token is asked for at start, and readiness waits for it


class Replacement(Enum):
    """What became of a refused token."""

    STARTED = "a newer token exists or is on its way: ask obtain()"
    SUPPRESSED = "renewed by force too lately, or the authorization server is failing: the token stays in use"


class TokenUnavailable(GatewayError):
    """No usable token, and none within the wait; the request gets 503 with Retry-After."""

    def __init__(self, detail: str, *, outcome: Outcome | None, retry_after_s: float, error_type: ErrorType) -> None:
        super().__init__(error_type, Side.AUTHORIZATION_SERVER, detail, retry_after_s=retry_after_s)
        self.outcome = outcome  # of the last token request; None where none has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """How often a token was asked for: there at once, there after a wait, or not there."""

    ready: int = 0
    waited: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long token requests took: one count per bucket of DURATION_BUCKETS_S and one beyond, not cumulative."""

    counts: tuple[int, ...] = (0,) * (len(DURATION_BUCKETS_S) + 1)
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatus:
    """One credential at one moment. Seconds are relative to it unless the name says `wall` (Unix time).

    Of credentials that share a token, the first named counts its token requests (`requests`, `durations`); for the
    others these are zero and `shares_with` names it, so that a sum over all says what the authorization server saw.
    """

    name: CredentialName
    required: bool
    ready: bool  # had its first token; sticky
    state: TokenState
    scope: str | None
    lifetime_s: float | None  # None while there is no token, as the next four
    obtained_ago_s: float | None
    usable_for_s: float | None  # 0 once it is expired
    expires_at_wall_s: float | None
    next_refresh_at_wall_s: float | None
    next_try_in_s: float | None  # 0 while one runs; None while none is planned
    consecutive_failures: int
    last_outcome: Outcome | None
    last_error: str | None  # for operators: why the last try failed; None once one succeeded
    clock_skew_s: float | None  # authorization server's clock minus ours, from its last reply with a Date
    scope_missing: tuple[str, ...]  # asked for and not granted with the last token
    client_secrets: int  # in overlap, of which one is in use; 0 where there is one only
    client_secret_in_use: int | None  # index of the one that brought the last token; None before that
    lookups: Lookups
    requests: Mapping[Outcome, int]  # every outcome is a key
    durations: Durations
    shares_with: CredentialName | None
    endless: bool = False  # the token has no end that we know of: nobody is asked for another


def outage_budget_s(statuses: Iterable[TokenStatus]) -> float | None:
    """Returns for how many seconds every credential in use has a token, if no authorization server answered from now.

    A credential is in use if it is required or ever had a token. None if there is no such credential. A token without
    an end that we know of does not count.
    """
    left = [
        status.usable_for_s or 0.0
        for status in statuses
        if (status.required or status.ready) and not (status.endless and status.state is TokenState.FRESH)
    ]
    return min(left, default=None)


class TokenSource(Protocol):
    """Where the tokens of one credential come from."""

    @property
    def name(self) -> CredentialName:
        """The credential's name."""

    def current(self) -> AccessToken | None:
        """Returns the token if there is a usable one, and counts the lookup as ready.

        O(1), no await, no lock. Where the token is due, its refresh is started and does not delay this answer.
        """

    async def obtain(self, timeout_s: float) -> AccessToken:
        """Returns a usable token, waiting for the one token request under way up to that many seconds.

        The answer is to be used as it is: asking `current` again may count twice, and finds no token that lives no
        longer than those who waited for it. Raises TokenUnavailable: at once while the authorization server is
        backed off from, with everybody else who waits when a token request fails, or when the wait is over.
        """

    def replace(self, rejected: AccessToken) -> Replacement:
        """Tells that the upstream refused this token. Only if it is still the current one, it is dropped and renewed.

        O(1), no await; a hundred calls for one token cost one token request.
        """

    def status(self) -> TokenStatus:
        """Returns the credential's facts at this moment."""
