"""A route's rate limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.rate_limit import Bucket
from proxy.routing import RateLimit


def test_a_burst_passes_and_the_next_waits():
    """`burst` requests at once, then one each interval; a refused one costs nothing."""
    bucket = Bucket(RateLimit(requests_per_second=10, burst=3))
    assert [0.0, 0.0, 0.0] == [bucket.take(100.0) for _ in range(3)]
    assert 0.099 < bucket.take(100.0) <= 0.1
    assert 0.099 < bucket.take(100.0) <= 0.1
    assert bucket.take(100.1001) == 0.0


@given(st.lists(st.floats(min_value=0, max_value=0.5), min_size=1, max_size=200))
def test_never_more_than_the_rate_and_one_burst(gaps: list[float]):
    """Over any time t at most burst + rate × t requests pass."""
    bucket = Bucket(RateLimit(requests_per_second=20, burst=5))
    now = passed = 0.0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0.0
    assert passed <= 5 + 20 * now + 1e-6
