"""How long a token is used, when a newer one is asked for, and how long to wait after a failure. Numbers only.

Randomness comes in as ``rnd``, a number in [0, 1); nothing here reads a clock. Instants are seconds on the caller's
clock, whatever its zero.

Source: RFC 6749 §5.1 (`expires_in`), RFC 9110 §10.2.3 (Retry-After); full jitter as in the AWS Architecture Blog,
"Exponential Backoff And Jitter".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.oauth.response import Outcome
from proxy.units import HOURS, MINUTES, SECONDS

MIN_GRANT_INTERVAL_S = 1 * SECONDS  # between two token requests of one credential, whatever happens
HANDOVER_S = 1 * SECONDS  # a token without life may be sent that long after it came, by those who waited for it
MAX_RETRY_AFTER_S = 5 * MINUTES  # a longer Retry-After is cut to this, or one reply could stop the gateway for a day
CONFIGURATION_PAUSE_S = 30 * SECONDS  # at least, after a refusal that asking again does not mend: two tries a minute
STEADY_PAUSE_S = 2.5 * SECONDS  # at least, from the third failure in a row on: 26 tries in a minute without chance
NEAR_EXPIRY_S = 30 * SECONDS  # a token that was not replaced by a newer one is asked for again that long before its end
LONG_AGO_S = -math.inf
_QUICK_TRIES = 2  # failures after which the next try may come sooner: most faults are short
_SAFETY_SHARE = 0.1  # of a token's life: the most that `expiry_buffer` takes from it
_MAX_DOUBLINGS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """When a token becomes due and until when it is used. Defaults are those of the configuration."""

    at_ratio: float = 0.8  # of the life, in (0, 1]
    jitter: float = 0.1  # of the life, in [0, 1); moves the due instant earlier by a random part of it
    before_expiry_s: float | None = None  # may bring the due instant forward, for lives longer than twice this
    expiry_buffer_s: float = 10 * SECONDS
    default_lifetime_s: float = 5 * MINUTES  # where the reply has no readable expires_in
    max_lifetime_s: float = 24 * HOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How tries are spaced after failures."""

    initial_s: float = 1 * SECONDS
    max_s: float = 60 * SECONDS
    max_without_token_s: float = 5 * SECONDS  # for network, timeout and 5xx failures while no token is usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """The instants of one token's life; `due_at_s <= usable_until_s <= expires_at_s`."""

    lifetime_s: float
    due_at_s: float
    usable_until_s: float
    expires_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed token request, as far as the next try depends on it."""

    at_s: float
    count: int  # of failures since the last success, this one included
    outcome: Outcome
    retry_after_s: float | None
    rnd: float
    tries: int = 1  # token requests that it stands for: two where two secrets were refused


def schedule(policy: RefreshPolicy, *, requested_at_s: float, expires_in: float | None, rnd: float) -> Lifetime:
    """Returns a token's life, counted from the instant before it was requested.

    `expires_in` in seconds, None for the default; zero or less makes a life of zero.
    """
    told = policy.default_lifetime_s if expires_in is None else expires_in
    life_s = min(max(told, 0.0), policy.max_lifetime_s)
    due_after_s = policy.at_ratio * life_s
    if policy.before_expiry_s is not None and life_s > 2 * policy.before_expiry_s:
        due_after_s = min(due_after_s, life_s - policy.before_expiry_s)
    due_after_s -= policy.jitter * rnd * life_s
    usable_for_s = life_s - min(policy.expiry_buffer_s, _SAFETY_SHARE * life_s)
    return Lifetime(
        lifetime_s=life_s,
        due_at_s=requested_at_s + min(max(due_after_s, 0.0), usable_for_s),
        usable_until_s=requested_at_s + usable_for_s,
        expires_at_s=requested_at_s + life_s,
    )


def near_expiry(life: Lifetime, *, now_s: float) -> Lifetime:
    """Returns a life that becomes due shortly before its end: half a minute, or a tenth of what is left.

    For a token that the authorization server gave out a second time: it keeps one until that has run out.
    """
    left_s = max(life.usable_until_s - now_s, 0.0)
    due_at_s = life.usable_until_s - min(NEAR_EXPIRY_S, _SAFETY_SHARE * left_s)
    return replace(life, due_at_s=max(life.due_at_s, due_at_s))


def steady_pause(backoff: Backoff) -> float:
    """Returns the least seconds between two tries of a lasting outage; less than its constant only where configured."""
    return max(MIN_GRANT_INTERVAL_S, min(STEADY_PAUSE_S, backoff.max_s, backoff.max_without_token_s))


def backoff_delay(
    backoff: Backoff,
    *,
    failures: int,
    without_token: bool,
    outcome: Outcome,
    retry_after_s: float | None,
    rnd: float,
    tries: int = 1,
) -> float:
    """Returns the seconds from a failure to the next try: full jitter, never less than the server's Retry-After.

    `failures` counts from 1; `tries` are the token requests that the last of them stands for. A refusal that asking
    again does not mend waits half a minute to a minute for each.
    """
    if outcome.configuration_fault:
        delay_s = CONFIGURATION_PAUSE_S * (1.0 + rnd) * tries
    else:
        ceiling_s = min(backoff.max_s, backoff.initial_s * math.pow(2.0, min(failures - 1, _MAX_DOUBLINGS)))
        if without_token and outcome.passing:
            ceiling_s = min(ceiling_s, backoff.max_without_token_s)
        delay_s = max(ceiling_s * rnd, MIN_GRANT_INTERVAL_S if failures <= _QUICK_TRIES else steady_pause(backoff))
    return max(delay_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def next_try_at(backoff: Backoff, failure: Failure, *, usable_until_s: float) -> float:
    """Returns the instant of the next try after a failure.

    `usable_until_s` is the present token's, or any past instant where there is none: once it has run out, the shorter
    pauses of a gateway without a token apply, however long the pause was when the try failed.
    """

    def delay_s(*, without_token: bool) -> float:
        return backoff_delay(
            backoff,
            failures=failure.count,
            without_token=without_token,
            outcome=failure.outcome,
            retry_after_s=failure.retry_after_s,
            rnd=failure.rnd,
            tries=failure.tries,
        )

    with_token_s = failure.at_s + delay_s(without_token=False)
    without_token_s = max(failure.at_s, usable_until_s) + delay_s(without_token=True)
    return min(with_token_s, without_token_s)


def strictest(policies: Sequence[RefreshPolicy]) -> RefreshPolicy:
    """Returns one policy for a token that several credentials share: no credential gets a token older than it allows."""
    before_expiry = [policy.before_expiry_s for policy in policies if policy.before_expiry_s is not None]
    return RefreshPolicy(
        at_ratio=min(policy.at_ratio for policy in policies),
        jitter=max(policy.jitter for policy in policies),
        before_expiry_s=max(before_expiry, default=None),
        expiry_buffer_s=max(policy.expiry_buffer_s for policy in policies),
        default_lifetime_s=min(policy.default_lifetime_s for policy in policies),
        max_lifetime_s=min(policy.max_lifetime_s for policy in policies),
    )


def gentlest(backoffs: Sequence[Backoff]) -> Backoff:
    """Returns one back-off for a token that several credentials share: none asks more often than it is allowed to."""
    return Backoff(
        initial_s=max(backoff.initial_s for backoff in backoffs),
        max_s=max(backoff.max_s for backoff in backoffs),
        max_without_token_s=max(backoff.max_without_token_s for backoff in backoffs),
    )
