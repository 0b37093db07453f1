"""What the last token requests say about the next: when it may be made, and what may make it worth an earlier try.

One per keeper, which tells it of each request's start and end. It starts nothing and sleeps nowhere; instants are seconds
on ``Clock.now()`` and come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.oauth.response import Outcome, TokenRequestError
from proxy.tokens.lifetime import LONG_AGO_S, MIN_GRANT_INTERVAL_S, Backoff, Failure, next_try_at
from proxy.tokens.proof import Proof


class Pace:
    """The memory of one credential's token requests, as far as the next one depends on it."""

    __slots__ = ("_backoff", "_failure", "_random", "_requested_at_s", "error", "last_outcome", "proof")

    def __init__(self, backoff: Backoff, *, proof: Proof, random: Callable[[], float]) -> None:
        self.error: TokenRequestError | None = None  # why there is no newer token; None if the last request brought one
        self.last_outcome: Outcome | None = None
        self.proof = proof
        self._backoff = backoff
        self._random = random
        self._requested_at_s = LONG_AGO_S
        self._failure: Failure | None = None

    @property
    def failures(self) -> int:
        """How many times in a row it failed since the last success."""
        return 0 if self._failure is None else self._failure.count

    @property
    def requested_at_s(self) -> float:
        """When the last request was made."""
        return self._requested_at_s

    @property
    def spaced_until_s(self) -> float:
        """Before this instant no request is made, whatever the reason for it: no loop can run faster."""
        return self._requested_at_s + MIN_GRANT_INTERVAL_S

    def backed_off_until_s(self, usable_until_s: float) -> float:
        """Returns the instant before which the last failure speaks against a request; long ago if there was none.

        `usable_until_s` is the present token's, LONG_AGO_S if there is none.
        """
        if self._failure is None:
            return LONG_AGO_S
        return next_try_at(self._backoff, self._failure, usable_until_s=usable_until_s)

    def requested(self, now_s: float) -> None:
        """Notes that a request is made now, with what the client proves itself with now."""
        self._requested_at_s = now_s
        self.proof.shown()

    def succeeded(self) -> None:
        """Notes that the request brought a token."""
        self._failure = self.error = None
        self.last_outcome = Outcome.OK
        self.proof.accepted()

    def failed(self, error: TokenRequestError, now_s: float, *, tries: int = 1) -> None:
        """Notes that the request, or several in a row with different secrets, brought none."""
        self.withheld(error)
        self._failure = Failure(
            at_s=now_s,
            count=self.failures + 1,
            outcome=error.outcome,
            retry_after_s=error.retry_after_s,
            rnd=self._random(),
            tries=tries,
        )

    def withheld(self, error: TokenRequestError) -> None:
        """Notes that no request was made, and why: another credential's failure at the same endpoint."""
        self.error = error
        self.last_outcome = error.outcome

    @property
    def mendable(self) -> bool:
        """Tells whether the last request was refused for what we sent, so that a new secret may mend it."""
        return self._failure is not None and self._failure.outcome.configuration_fault

    def mended(self) -> bool:
        """Tells whether there is something else to show, and that may mend a refusal or is what the token is bound to.

        A `stat` of each file.
        """
        return (self.mendable or self.proof.binds) and self.proof.changed()
