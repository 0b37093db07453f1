"""Numbers of a token's life and of the pauses between tries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.oauth.response import Outcome
from proxy.tokens.lifetime import (
    Backoff,
    Failure,
    RefreshPolicy,
    backoff_delay,
    gentlest,
    near_expiry,
    next_try_at,
    schedule,
    strictest,
)

START = 1000.0
PASSING = [Outcome.CONNECT, Outcome.TIMEOUT, Outcome.TLS, Outcome.SERVER_ERROR]
FAULTS = [Outcome.INVALID_CLIENT, Outcome.INVALID_SCOPE, Outcome.OAUTH_ERROR]


@pytest.mark.parametrize(
    ("expires_in", "due", "usable", "expires"),
    [
        (3600, 2880, 3590, 3600),
        (100, 80, 90, 100),  # the buffer and a tenth of the life are the same here
        (50, 40, 45, 50),
        (1, 0.8, 0.9, 1),
        (0, 0, 0, 0),
        (-1, 0, 0, 0),
        (-1e300, 0, 0, 0),
        (None, 240, 290, 300),
        (86_400, 69_120, 86_390, 86_400),
        (86_401, 69_120, 86_390, 86_400),
        (1e12, 69_120, 86_390, 86_400),
        (float(2**63), 69_120, 86_390, 86_400),
        (math.inf, 69_120, 86_390, 86_400),
    ],
)
def test_a_life_by_the_defaults(expires_in, due, usable, expires):
    """Due at 0.8 of it, unusable 10 s or a tenth before its end, never longer than a day."""
    life = schedule(RefreshPolicy(), requested_at_s=START, expires_in=expires_in, rnd=0.0)
    assert life.due_at_s - START == pytest.approx(due)
    assert life.usable_until_s - START == pytest.approx(usable)
    assert life.expires_at_s - START == pytest.approx(expires)


@pytest.mark.parametrize(("rnd", "due"), [(0.0, 800), (0.5, 750), (1.0, 700)])
def test_jitter(rnd, due):
    """It moves the due instant earlier, by up to its share of the life; never later."""
    life = schedule(RefreshPolicy(jitter=0.1), requested_at_s=0, expires_in=1000, rnd=rnd)
    assert life.due_at_s == pytest.approx(due)


@pytest.mark.parametrize(
    ("before", "due"),
    [
        (100, 800),  # later than the ratio says: no effect
        (300, 700),
        (499, 501),
        (500, 800),  # the life is not longer than twice that: does not count
        (5000, 800),
    ],
)
def test_before_expiry(before, due):
    """It may only bring the due instant forward, and counts only for lives longer than twice itself."""
    policy = RefreshPolicy(jitter=0, before_expiry_s=before)
    assert schedule(policy, requested_at_s=0, expires_in=1000, rnd=0.5).due_at_s == pytest.approx(due)


@given(
    st.builds(
        RefreshPolicy,
        at_ratio=st.floats(0.01, 1),
        jitter=st.floats(0, 0.99),
        before_expiry_s=st.none() | st.floats(0, 1e5),
        expiry_buffer_s=st.floats(0, 1e5),
        default_lifetime_s=st.floats(1, 1e5),
        max_lifetime_s=st.floats(1, 1e5),
    ),
    st.none() | st.floats(allow_nan=False),
    st.floats(0, 1, exclude_max=True),
)
def test_any_policy_and_any_life(policy, expires_in, rnd):
    """The instants keep their order, and at least nine tenths of the life are used."""
    life = schedule(policy, requested_at_s=START, expires_in=expires_in, rnd=rnd)
    assert START <= life.due_at_s <= life.usable_until_s <= life.expires_at_s
    assert life.lifetime_s <= policy.max_lifetime_s
    assert life.usable_until_s - START >= 0.9 * life.lifetime_s - 1e-6


def delay(outcome=Outcome.CONNECT, failures=1, *, without_token=False, retry_after_s=None, rnd=1.0, **backoff):
    return backoff_delay(
        Backoff(**backoff),
        failures=failures,
        without_token=without_token,
        outcome=outcome,
        retry_after_s=retry_after_s,
        rnd=rnd,
    )


@pytest.mark.parametrize(("failures", "ceiling"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60), (10**6, 60)])
def test_the_pause_grows(failures, ceiling):
    """Full jitter below a ceiling that doubles up to `max`; a second in any case, and 2.5 once two tries failed."""
    floor = 1 if failures <= 2 else 2.5
    assert delay(failures=failures) == ceiling
    assert delay(failures=failures, rnd=0.5) == max(ceiling / 2, floor)
    assert delay(failures=failures, rnd=0.0) == floor


@pytest.mark.parametrize("without_token", [False, True])
@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_the_first_minute_of_an_outage(outcome, without_token):
    """Thirty tries at most, whatever chance says, and two where asking again mends nothing."""
    at_s, tries = 0.0, 0
    while at_s < 60:
        tries += 1
        at_s += delay(outcome, tries, without_token=without_token, rnd=0.0)
    assert tries <= (2 if outcome.configuration_fault else 30)


@pytest.mark.parametrize(
    "given", [{"max_without_token_s": 0.1}, {"max_s": 0.5, "initial_s": 0.5}, {"max_without_token_s": 1.5}]
)
def test_shorter_pauses_that_are_asked_for(given):
    """They are kept to, down to a second."""
    assert delay(failures=9, without_token=True, rnd=0.0, **given) == max(1, min(given.values()))


def test_two_secrets_that_were_refused():
    """The pause is as long as for two refusals, so that there are two tries a minute still."""
    refused = {"failures": 1, "without_token": True, "outcome": Outcome.INVALID_CLIENT, "retry_after_s": None}
    assert backoff_delay(Backoff(), rnd=0.0, tries=2, **refused) == 60


@pytest.mark.parametrize(("left_s", "early_s"), [(720, 30), (300, 30), (50, 5), (5, 0.5), (-1, 0)])
def test_a_token_that_was_given_out_again(left_s, early_s):
    """It is due half a minute before its end, or a tenth of what is left; never earlier than it was due."""
    life = schedule(RefreshPolicy(), requested_at_s=0.0, expires_in=1000.0, rnd=0.0)
    now_s = life.usable_until_s - left_s
    again = near_expiry(life, now_s=now_s)
    assert again.due_at_s == max(life.due_at_s, life.usable_until_s - early_s)
    assert (again.usable_until_s, again.expires_at_s) == (life.usable_until_s, life.expires_at_s)


@pytest.mark.parametrize("outcome", PASSING)
def test_no_token_and_the_server_is_down(outcome):
    """The pause is `max_without_token` at most, so that the gateway is back soon after the server."""
    assert delay(outcome, 99, without_token=True) == 5
    assert delay(outcome, 99, without_token=False) == 60


@pytest.mark.parametrize("outcome", [Outcome.MALFORMED, Outcome.RATE_LIMITED])
def test_no_token_and_the_server_answers_something_else(outcome):
    """The ordinary pause applies."""
    assert delay(outcome, 99, without_token=True) == 60


@pytest.mark.parametrize("outcome", FAULTS)
@pytest.mark.parametrize("failures", [1, 2, 99])
@pytest.mark.parametrize("without_token", [True, False])
def test_a_fault_of_the_configuration(outcome, failures, without_token):
    """At most two tries a minute, whatever the back-off says."""
    assert delay(outcome, failures, without_token=without_token, rnd=0.0, max_s=5) == 30
    assert delay(outcome, failures, without_token=without_token, rnd=1.0, max_s=5) == 60


@pytest.mark.parametrize(("told", "waited"), [(0, 1), (7, 7), (300, 300), (301, 300), (1e9, 300)])
@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.SERVER_ERROR])
def test_retry_after(outcome, told, waited):
    """It is the least that is waited, up to five minutes, with a token or without."""
    assert delay(outcome, retry_after_s=told) == waited
    assert delay(outcome, retry_after_s=told, without_token=True) == waited


def failure(outcome=Outcome.CONNECT, *, count=99, retry_after_s=None, rnd=1.0):
    return Failure(at_s=START, count=count, outcome=outcome, retry_after_s=retry_after_s, rnd=rnd)


@pytest.mark.parametrize(
    ("usable_for", "next_try"),
    [(-math.inf, 5), (-1, 5), (0, 5), (10, 15), (55, 60), (60, 60), (3600, 60)],
)
def test_a_token_that_runs_out_while_waiting(usable_for, next_try):
    """From then on the shorter pauses count, however long the pause was to be."""
    assert next_try_at(Backoff(), failure(), usable_until_s=START + usable_for) - START == next_try


def test_a_token_that_runs_out_before_retry_after():
    """The server's wish goes before."""
    told = failure(Outcome.RATE_LIMITED, retry_after_s=120)
    assert next_try_at(Backoff(), told, usable_until_s=START + 10) - START == 120


def test_credentials_that_share_a_token():
    """They get the earliest refresh, the shortest life and the gentlest back-off that any of them asks for."""
    a = RefreshPolicy(at_ratio=0.5, jitter=0.1, expiry_buffer_s=10, default_lifetime_s=60, max_lifetime_s=600)
    b = RefreshPolicy(at_ratio=0.8, jitter=0.2, before_expiry_s=9, expiry_buffer_s=20, default_lifetime_s=90)
    assert strictest([a]) == a
    assert strictest([a, b]) == RefreshPolicy(
        at_ratio=0.5, jitter=0.2, before_expiry_s=9, expiry_buffer_s=20, default_lifetime_s=60, max_lifetime_s=600
    )
    assert gentlest([Backoff(initial_s=2, max_s=10), Backoff(max_without_token_s=9)]) == Backoff(
        initial_s=2, max_s=60, max_without_token_s=9
    )
