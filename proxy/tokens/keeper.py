"""The keeper of one access token: the only one who asks for it, and the only one who writes it.

A token request is a *flight*: a task of its own, at most one at a time. Whoever needs its token waits beside it, so that
no client that leaves can cancel it, and all who wait learn its end at once. The flight never raises: it returns the
token or the failure. Between flights a *timer* sleeps until the next is due. Readers read ``token`` as long as the clock
is before ``settled_until_s`` and call ``looked_up`` from there on; nothing they do waits.

Deadlines count on ``Clock.now()`` and are checked at every read, since a timer sleeps through a suspend.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from proxy.clock import Clock
from proxy.errors import ErrorType
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, TokenGrant, TokenRequestError
from proxy.tasks import Tasks
from proxy.tokens import journal
from proxy.tokens.access_token import AccessToken, CredentialName, TokenState
from proxy.tokens.counters import GrantCounters
from proxy.tokens.governor import Governor
from proxy.tokens.lifetime import (
    HANDOVER_S,
    LONG_AGO_S,
    MIN_GRANT_INTERVAL_S,
    gentlest,
    near_expiry,
    schedule,
    steady_pause,
    strictest,
)
from proxy.tokens.notices import Notices
from proxy.tokens.pace import Pace
from proxy.tokens.proof import Proof
from proxy.tokens.source import CredentialSettings, Replacement, TokenUnavailable
from proxy.units import SECONDS

FORCED_RENEWAL_INTERVAL_S = 30 * SECONDS  # an upstream that refuses every token must not make us ask for ever new ones
WALL_CLOCK_TOLERANCE_S = 30 * SECONDS
_WATCH_STEP_S = 10 * SECONDS  # the timer's longest sleep: the wall clock is compared that often
_SECRET_STEP_S = 1 * SECONDS  # the same while a changed secret file may mend the failure
_SAME_EXPIRY_S = 2 * SECONDS  # two replies that mean one end of a token's life differ by less: they tell whole seconds

TokenRequest = Callable[[Registration], Awaitable[TokenGrant]]


class Keeper:
    """Keeps the token of one registration fresh for all credentials that share it. Used on one event loop."""

    __slots__ = (
        "_clock",
        "_flight",
        "_forced_at_s",
        "_generation",
        "_governor",
        "_policy",
        "_random",
        "_registration",
        "_request",
        "_steady_pause_s",
        "_stopped",
        "_tasks",
        "_timer",
        "_wall_offset_s",
        "counters",
        "names",
        "notices",
        "pace",
        "ready",
        "settled_until_s",
        "token",
    )

    def __init__(
        self,
        credentials: Sequence[CredentialSettings],
        *,
        request: TokenRequest,
        governor: Governor,
        clock: Clock,
        tasks: Tasks,
        random: Callable[[], float],
    ) -> None:
        self.names: tuple[CredentialName, ...] = tuple(credential.name for credential in credentials)
        self.token: AccessToken | None = None  # usable for certain before `settled_until_s` only
        self.settled_until_s = LONG_AGO_S
        self.ready = False  # had its first token
        self.counters = GrantCounters()
        self.notices = Notices()
        longest_s = max(credential.registration.timeout_s for credential in credentials)
        self._registration = dataclasses.replace(credentials[0].registration, timeout_s=longest_s)
        self._policy = strictest([credential.refresh for credential in credentials])
        backoff = gentlest([credential.backoff for credential in credentials])
        self.pace = Pace(backoff, proof=Proof(self._registration), random=random)
        self._steady_pause_s = steady_pause(backoff)
        self._request = request
        self._governor = governor
        self._clock = clock
        self._tasks = tasks
        self._random = random
        self._generation = 0
        self._flight: asyncio.Task[AccessToken | TokenRequestError] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._forced_at_s = LONG_AGO_S
        self._wall_offset_s = 0.0
        self._stopped = False

    # --- for those who need the token ---

    def looked_up(self) -> AccessToken | None:
        """Returns the token if it is usable, and starts a refresh if one is due. O(1), no await."""
        now_s = self._clock.now()
        token = self.token
        if token is None or not token.usable(now_s):
            return None
        if token.due_at_s <= now_s and self._may_fly(now_s):
            self._fly()
        return token

    async def obtained(self, timeout_s: float) -> AccessToken:
        """Returns a usable token, from the flight under way or a new one. Raises TokenUnavailable."""
        token = self.looked_up()
        if token is not None:
            return token
        flight = self._flight
        if flight is None:
            if self._stopped:
                raise self._unavailable(None, "the gateway is stopping")
            if not self._may_fly(self._clock.now()) and not self.pace.mended():
                raise self._unavailable(self.pace.error or self._governor.error, "waiting before the next try")
            flight = self._fly()
        # `wait` leaves the flight alone, whether the time is over or the waiter is cancelled.
        await asyncio.wait((flight,), timeout=timeout_s)
        if not flight.done():
            raise self._unavailable(self.pace.error, "the token request takes longer than the request may wait")
        if flight.cancelled():
            raise self._unavailable(None, "the gateway is stopping")
        result = flight.result()
        if isinstance(result, TokenRequestError):
            raise self._unavailable(result, "the token request failed")
        if not result.usable(self._clock.now()):
            raise self._unavailable(None, "the token ran out while the request waited for it")
        return result

    def replace(self, rejected: AccessToken) -> Replacement:
        """Drops the token if it is this one, and starts its renewal; see ``TokenSource.replace``."""
        now_s = self._clock.now()
        token = self.token if self.token is not None and self.token.usable(now_s) else None
        if token is None:
            # Dropped for somebody else already, or run out: it is renewed as a matter of course. A token without life
            # was never kept, so that the brake below is the only one there is.
            if rejected.lifetime_s > 0 or rejected.generation != self._generation:
                return Replacement.STARTED
        elif token.generation != rejected.generation:
            return Replacement.STARTED  # a newer one is there
        if now_s - self._forced_at_s < FORCED_RENEWAL_INTERVAL_S or self._stopped:
            return Replacement.SUPPRESSED
        if self._flight is None and not self._may_fly(now_s):
            # The authorization server fails: one upstream's refusal must not take the token from everybody else.
            return Replacement.SUPPRESSED
        self._forced_at_s = now_s
        self.token = None
        if self._flight is None:
            self._fly()
        self._settle()
        return Replacement.STARTED

    # --- life ---

    def start(self) -> None:
        """Asks for the first token, in the background."""
        if self._flight is None and not self.ready:
            self._fly()

    async def stop(self) -> None:
        """Ends flight and timer; those who wait get TokenUnavailable. A token that is still usable stays readable."""
        self._stopped = True
        running = [task for task in (self._flight, self._timer) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def state(self) -> TokenState:
        """Returns how the token stands at this moment."""
        now_s = self._clock.now()
        if self.token is None:
            return TokenState.NONE
        if not self.token.usable(now_s):
            return TokenState.EXPIRED
        if now_s < self.token.due_at_s:
            return TokenState.FRESH
        return TokenState.HELD if self.pace.error is not None else TokenState.DUE

    def next_try_at_s(self) -> float | None:
        """Returns when the next token request is made; the present if one is under way, None if none is planned."""
        if self._flight is not None:
            return self._clock.now()
        return self._planned_at_s() if self._timer is not None and not self._stopped else None

    # --- flights ---

    def _may_fly(self, now_s: float) -> bool:
        if self._flight is not None or self._stopped:
            return False
        return now_s >= max(self.pace.backed_off_until_s(self._usable_until_s()), self._governor.closed_until_s())

    def _fly(self) -> asyncio.Task[AccessToken | TokenRequestError]:
        """Starts the one flight."""
        assert self._flight is None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flight = self._tasks.start(self._flown(), name=f"token request {self.names[0]}")
        self._settle()
        return self._flight

    async def _flown(self) -> AccessToken | TokenRequestError:
        """Makes one token request, a second one if another secret can be tried at once; returns how it ended."""
        try:
            forced = self._forced_at_s > self.pace.requested_at_s
            result = await self._asked(forced=forced)
            tries = 1
            while isinstance(result, TokenRequestError) and result.of_the_client and self.pace.proof.refused():
                if self.pace.mendable:
                    break  # refused a moment ago already, for whatever reason: two tries a minute
                journal.secret_refused(self.names, result)
                result = await self._asked(forced=forced)
                tries += 1
            if result is None:
                result = self._governor.held_back()
                self.pace.withheld(result)
            elif isinstance(result, TokenRequestError):
                self._failed(result, forced=forced, tries=tries)
        finally:
            self._flight = None
        self._settle()
        self._plan()
        return result

    async def _asked(self, *, forced: bool) -> AccessToken | TokenRequestError | None:
        """Makes one token request, not earlier than a second after the last; None if the endpoint is held back from."""

        async def exchange() -> AccessToken | TokenRequestError:
            wall_offset_s = self._clock.wall() - self._clock.now()
            self.pace.requested(self._clock.now())
            answer = await self._answer()
            self.notices.clock(self.names, answer.clock_skew_s)
            result = self._judged(answer, wall_offset_s, forced=forced)
            outcome = result.outcome if isinstance(result, TokenRequestError) else Outcome.OK
            self.counters.count(outcome, self._clock.now() - self.pace.requested_at_s)
            return result

        while (pause_s := self.pace.spaced_until_s - self._clock.now()) > 0:
            await self._clock.sleep(pause_s)
        return await self._governor.call(self, exchange, pause_s=self._steady_pause_s)

    async def _answer(self) -> TokenGrant | TokenRequestError:
        try:
            return await self._request(self._registration)
        except TokenRequestError as error:
            return error
        except Exception as error:  # noqa: BLE001  # a defect must not end the token's life for good
            return TokenRequestError(Outcome.MALFORMED, f"internal error: {type(error).__name__}")  # its text may tell

    def _judged(
        self, answer: TokenGrant | TokenRequestError, wall_offset_s: float, *, forced: bool
    ) -> AccessToken | TokenRequestError:
        """Returns the token that an answer brings, or the failure; a defect of ours is a failure like others."""
        if isinstance(answer, TokenRequestError):
            return answer
        try:
            return self._accepted(answer, wall_offset_s, forced=forced)
        except Exception as error:  # noqa: BLE001  # it must not end the token's life for good
            return TokenRequestError(Outcome.MALFORMED, f"internal error: {type(error).__name__}")

    def _accepted(self, grant: TokenGrant, wall_offset_s: float, *, forced: bool) -> AccessToken | TokenRequestError:
        """Takes a grant into use. Returns a failure if its token had run out before it came."""
        now_s = self._clock.now()
        requested_at_s = self.pace.requested_at_s
        life = schedule(self._policy, requested_at_s=requested_at_s, expires_in=grant.expires_in, rnd=self._random())
        field_value = f"{grant.token_type} {grant.access_token.reveal()}".encode("ascii")
        for_waiters_only = life.lifetime_s <= 0
        over = for_waiters_only or now_s >= life.usable_until_s
        same = self.token if self.token is not None and self.token.field_value == field_value else None
        if same is not None and over:
            self.token = None  # the very token in use, and the authorization server says that it is over
        elif same is not None and life.expires_at_s < same.expires_at_s + _SAME_EXPIRY_S:
            life = near_expiry(life, now_s=now_s)  # it keeps its tokens until they have run out: no use to ask early
        if over and not for_waiters_only:
            return TokenRequestError(Outcome.TIMEOUT, "the reply took longer than its token lives")
        self._generation += 1
        token = AccessToken(
            field_value=field_value,
            generation=self._generation,
            obtained_at_s=requested_at_s,
            due_at_s=life.due_at_s,
            usable_until_s=now_s + HANDOVER_S if for_waiters_only else life.usable_until_s,
            expires_at_s=life.expires_at_s,
            lifetime_s=life.lifetime_s,
            scope=grant.scope if grant.scope is not None else self._registration.scope,
        )
        if not over:
            self.token, self._wall_offset_s = token, wall_offset_s
        journal.token_obtained(
            self.names,
            token,
            now_s=now_s,
            failures_before=self.pace.failures,
            forced=forced,
            same_token=same is not None,
            scope_missing=self.notices.scope(self._registration.scope, grant.scope),
            warning=self.notices.warning(grant.warning),
        )
        self.ready = True
        self.pace.succeeded()
        return token

    def _failed(self, error: TokenRequestError, *, forced: bool, tries: int) -> None:
        now_s = self._clock.now()
        self.pace.failed(error, now_s, tries=tries)
        journal.request_failed(
            self.names,
            error,
            failures=self.pace.failures,
            next_try_in_s=self._planned_at_s() - now_s,
            token_usable_for_s=max(self._usable_until_s() - now_s, 0.0),
            forced=forced,
        )

    # --- when ---

    def _usable_until_s(self) -> float:
        return LONG_AGO_S if self.token is None else self.token.usable_until_s

    def _planned_at_s(self) -> float:
        """Returns when the timer starts the next flight."""
        due_at_s = LONG_AGO_S if self.token is None else self.token.due_at_s
        return max(
            due_at_s,
            self.pace.backed_off_until_s(self._usable_until_s()),
            self.pace.spaced_until_s,
            self._governor.closed_until_s(),
        )

    def _settle(self) -> None:
        """Sets until when readers need not look: the token is usable, and there is nothing to be started."""
        if self.token is None:
            self.settled_until_s = LONG_AGO_S
        elif self._flight is not None or self._stopped:
            self.settled_until_s = self.token.usable_until_s
        else:
            self.settled_until_s = min(self.token.usable_until_s, self._planned_at_s())

    def _plan(self) -> None:
        """Starts the timer, unless there is nothing to keep: a token without life is asked for when it is needed."""
        if not self._stopped and (self.token is not None or self.pace.error is not None):
            self._timer = self._tasks.start(self._waited(), name=f"token timer {self.names[0]}")

    async def _waited(self) -> None:
        """Sleeps until the next flight is due, in steps, and starts it."""
        while (pause_s := self._planned_at_s() - self._clock.now()) > 0:
            await self._clock.sleep(min(pause_s, _SECRET_STEP_S if self.pace.mendable else _WATCH_STEP_S))
            self._compare_wall_clock()
            if self.pace.mended():
                break
        self._timer = None
        self._fly()

    def _compare_wall_clock(self) -> None:
        """Makes the token due if the wall clock ran ahead: our clock may have stood still. It never prolongs one."""
        now_s = self._clock.now()
        if self.token is None or now_s >= self.token.due_at_s:
            return
        if self._clock.wall() - now_s - self._wall_offset_s > WALL_CLOCK_TOLERANCE_S:
            self.token = dataclasses.replace(self.token, due_at_s=now_s)
            self._settle()

    # --- what is told of it ---

    def _unavailable(self, error: TokenRequestError | None, reason: str) -> TokenUnavailable:
        """Returns the failure for one waiter: each gets its own, or their tracebacks would pile up in a shared one."""
        next_try_s = self._planned_at_s() if self._flight is None else self._clock.now()
        wait_s = next_try_s - self._clock.now()
        return TokenUnavailable(
            f"{reason}; last failure: {error.detail}" if error is not None else reason,
            outcome=None if error is None else error.outcome,
            retry_after_s=max(round(wait_s, 3), MIN_GRANT_INTERVAL_S),
            error_type=ErrorType.PROXY_INTERNAL_ERROR if error is None else error.error_type,
        )
