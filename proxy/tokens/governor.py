"""One token endpoint, for all credentials that ask it: how many ask at once, and when nobody does.

Each credential has its own pace after its own failures (``pace``); the governor adds what they know together. It lets a
few token requests through at a time, first come first served. It holds everybody back for as long as a Retry-After
says. And once several credentials in a row found the endpoint failing, it takes that as an outage: one of them tries at
a time, with a pause between the tries, and the others are told the reason from memory. One answer ends the outage. A
credential that alone fails, perhaps by its own configuration, holds up nobody else.

Used on one event loop; whoever is held back asks again later by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from proxy.clock import Clock
from proxy.oauth.registration import Registration
from proxy.oauth.response import Outcome, Stage, TokenRequestError
from proxy.tokens.lifetime import LONG_AGO_S, MAX_RETRY_AFTER_S
from proxy.units import SECONDS

MAX_CALLS = 4  # at a time: enough to start a gateway with many credentials, too few to burden an authorization server
OUTAGE_FAILURES = 3  # in a row, of two credentials at least
_PROBE_STEP_S = 1 * SECONDS  # how long those wait who find that somebody tries just now
_T = TypeVar("_T")
_log = logging.getLogger("proxy.tokens")


class Governor:
    """The memory of one token endpoint. Instants are seconds on ``Clock.now()``."""

    __slots__ = ("_clock", "_failed", "_failures", "_held_until_s", "_probing", "_retry_at_s", "_slots", "error")

    def __init__(self, clock: Clock) -> None:
        self.error: TokenRequestError | None = None  # the last answer that speaks against asking; None if there is none
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CALLS)  # serves in the order of arrival
        self._held_until_s = LONG_AGO_S  # as the endpoint's own Retry-After wants it
        self._failures = 0  # in a row
        self._failed: set[Hashable] = set()  # whose they were
        self._retry_at_s = LONG_AGO_S  # in an outage
        self._probing = False

    @property
    def outage(self) -> bool:
        """Tells whether the endpoint is taken to be down."""
        return self._failures >= OUTAGE_FAILURES and len(self._failed) > 1

    def closed_until_s(self) -> float:
        """Returns the instant before which no token request is let through; a past one if the endpoint is open."""
        if not self.outage:
            return self._held_until_s
        retry_at_s = self._clock.now() + _PROBE_STEP_S if self._probing else self._retry_at_s
        return max(retry_at_s, self._held_until_s)

    async def call(
        self, who: Hashable, request: Callable[[], Awaitable[_T | TokenRequestError]], *, pause_s: float
    ) -> _T | TokenRequestError | None:
        """Returns what one token request brought, made when it is its turn; None if it was held back: see `error`.

        `pause_s` is how long nobody asks after it, should it fail in an outage.
        """
        async with self._slots:
            if self._clock.now() < self.closed_until_s():
                return None
            self._probing = self.outage
            try:
                answer = await request()
            finally:
                self._probing = False
            self._note(who, answer, pause_s)
            return answer

    def held_back(self) -> TokenRequestError:
        """Returns what somebody is told who was held back: the failure of whoever asked last."""
        error = self.error
        if error is None:  # the endpoint opened in this very moment
            return TokenRequestError(Outcome.SERVER_ERROR, "held back a moment ago, and free to ask again now")
        return TokenRequestError(
            error.outcome,
            f"held back, since the token endpoint failed: {error.detail}",
            status=error.status,
            hint=error.hint,
            stage=error.stage,
            error_type=error.error_type,
        )

    def _note(self, who: Hashable, answer: object, pause_s: float) -> None:
        if isinstance(answer, TokenRequestError) and answer.stage is Stage.CONFIGURATION:
            return  # nothing was sent
        now_s, was_down = self._clock.now(), self.outage
        if not isinstance(answer, TokenRequestError) or answer.outcome.configuration_fault:
            self._failures = 0  # it answered: whatever it says concerns this one credential
            self._failed.clear()
            if was_down:
                _log.info("the token endpoint answers again")
            if now_s >= self._held_until_s:
                self.error = None
            return
        self.error = answer
        self._failures += 1
        self._failed.add(who)
        self._retry_at_s = now_s + pause_s
        if answer.status in {429, 503} and answer.retry_after_s:
            self._held_until_s = max(self._held_until_s, now_s + min(answer.retry_after_s, MAX_RETRY_AFTER_S))
        if self.outage and not was_down:
            _log.warning(
                "the token endpoint fails for several credentials: one of them asks at a time",
                extra={
                    "fields": {"outcome": answer.outcome.value, "reason": answer.detail, "failures": self._failures}
                },
            )


def endpoint(registration: Registration) -> Hashable:
    """Returns what makes two registrations ask one endpoint in one way: its URL but for the query, and the way there."""
    return (registration.server.partition("?")[0], registration.tls, registration.proxy)
