"""One credential's view of its keeper: the ``TokenSource`` of a single process.

Several credentials may look at one keeper; what they have apart are their name, whether they are required, and their
lookups. ``current`` is on the path of every request: one clock reading and one comparison while nothing is to be done.
"""

from __future__ import annotations

from proxy.clock import Clock
from proxy.oauth.response import Outcome
from proxy.tokens.access_token import AccessToken, CredentialName
from proxy.tokens.keeper import Keeper
from proxy.tokens.source import Durations, Lookups, Replacement, TokenStatus, TokenUnavailable


class CredentialSource:
    """The token of one credential, kept by a keeper."""

    __slots__ = ("_clock", "_failed", "_keeper", "_name", "_ready", "_required", "_waited")

    def __init__(self, name: CredentialName, keeper: Keeper, *, required: bool, clock: Clock) -> None:
        self._name = name
        self._keeper = keeper
        self._required = required
        self._clock = clock
        self._ready = 0
        self._waited = 0
        self._failed = 0

    @property
    def name(self) -> CredentialName:
        """The credential's name."""
        return self._name

    def current(self) -> AccessToken | None:
        """Returns the token if there is a usable one; see ``TokenSource.current``."""
        keeper = self._keeper
        token = keeper.token if self._clock.now() < keeper.settled_until_s else keeper.looked_up()
        if token is not None:
            self._ready += 1
        return token

    async def obtain(self, timeout_s: float) -> AccessToken:
        """Returns a usable token, waiting for it; see ``TokenSource.obtain``.

        Counts the lookup as waited or failed, as ready if there was nothing to wait for, and not at all if the waiter
        is cancelled: its client left, which says nothing of the token.
        """
        token = self.current()
        if token is not None:
            return token
        try:
            token = await self._keeper.obtained(timeout_s)
        except TokenUnavailable:
            self._failed += 1
            raise
        self._waited += 1
        return token

    def replace(self, rejected: AccessToken) -> Replacement:
        """Tells that the upstream refused this token; see ``TokenSource.replace``."""
        return self._keeper.replace(rejected)

    def status(self) -> TokenStatus:
        """Returns the credential's facts at this moment."""
        keeper, pace, token = self._keeper, self._keeper.pace, self._keeper.token
        now_s, wall_s = self._clock.now(), self._clock.wall()
        next_try_at_s = keeper.next_try_at_s()
        next_try_in_s = None if next_try_at_s is None else max(next_try_at_s - now_s, 0.0)
        first = keeper.names[0]
        counts = first == self._name
        return TokenStatus(
            name=self._name,
            required=self._required,
            ready=keeper.ready,
            state=keeper.state(),
            scope=None if token is None else token.scope,
            lifetime_s=None if token is None else token.lifetime_s,
            obtained_ago_s=None if token is None else now_s - token.obtained_at_s,
            usable_for_s=None if token is None else max(token.usable_until_s - now_s, 0.0),
            expires_at_wall_s=None if token is None else wall_s + token.expires_at_s - now_s,
            next_refresh_at_wall_s=None if token is None or next_try_in_s is None else wall_s + next_try_in_s,
            next_try_in_s=next_try_in_s,
            consecutive_failures=pace.failures,
            last_outcome=pace.last_outcome,
            last_error=None if pace.error is None else pace.error.explained(),
            clock_skew_s=keeper.notices.clock_skew_s,
            scope_missing=keeper.notices.scope_missing,
            client_secrets=pace.proof.alternatives,
            client_secret_in_use=pace.proof.accepted_index,
            lookups=Lookups(ready=self._ready, waited=self._waited, failed=self._failed),
            requests=keeper.counters.requests_by_outcome() if counts else dict.fromkeys(Outcome, 0),
            durations=keeper.counters.durations() if counts else Durations(),
            shares_with=None if counts else first,
        )
