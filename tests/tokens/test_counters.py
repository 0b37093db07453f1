"""Counts of token requests."""

from __future__ import annotations

import pytest

from proxy.oauth.response import Outcome
from proxy.tokens.counters import GrantCounters
from proxy.tokens.source import DURATION_BUCKETS_S


def test_no_request_yet():
    """Every outcome is there, with zero."""
    counters = GrantCounters()
    assert counters.requests_by_outcome() == dict.fromkeys(Outcome, 0)
    assert counters.durations().counts == (0,) * 14
    assert counters.durations().sum_s == 0


@pytest.mark.parametrize(
    ("duration_s", "bucket"), [(0, 0), (0.005, 0), (0.0051, 1), (10, 10), (10.1, 11), (60, 12), (60.1, 13), (1e9, 13)]
)
def test_a_duration(duration_s, bucket):
    """It falls into the bucket whose upper bound is the first not below it."""
    counters = GrantCounters()
    counters.count(Outcome.TIMEOUT, duration_s)
    assert counters.durations().counts[bucket] == sum(counters.durations().counts) == 1
    assert counters.durations().sum_s == duration_s
    assert counters.requests_by_outcome()[Outcome.TIMEOUT] == 1


def test_the_buckets():
    """5 ms to 10 s, then 30 and 60."""
    assert DURATION_BUCKETS_S[0] == 0.005
    assert DURATION_BUCKETS_S[-3:] == (10.0, 30.0, 60.0)
    assert list(DURATION_BUCKETS_S) == sorted(DURATION_BUCKETS_S)
