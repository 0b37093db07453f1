"""The counters: plain integers, and no series that a client could add."""

from __future__ import annotations

import random

import pytest

from proxy.errors import ErrorType, Problem
from proxy.http1 import wire
from proxy.metrics import DURATION_BUCKETS_S, METHODS, REPLAY_RESULTS, GatewayMetrics, Histogram, RouteMetrics


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(-0.001, 0), (0.0, 0), (0.005, 0), (0.00501, 1), (0.01, 1), (9.999, 10), (10.0, 10), (60.0, 12), (60.1, 13), (1e9, 13)],
)  # fmt: skip
def test_a_duration(seconds, bucket):
    """It counts in the first bucket whose bound it does not exceed."""
    histogram = Histogram()
    histogram.observe(seconds)
    assert histogram.counts == [int(index == bucket) for index in range(len(DURATION_BUCKETS_S) + 1)]
    assert histogram.sum == seconds
    assert histogram.count == 1


def test_the_buckets():
    """From 5 ms to 10 s, then 30 and 60."""
    assert DURATION_BUCKETS_S == (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def test_cumulative_counts():
    """Each bound counts all that is at most it; the last is the count."""
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.5, 1.7, 9.0):
        histogram.observe(seconds)
    assert histogram.cumulative() == [1, 3, 4]


def test_a_finished_request():
    """It counts by method and code."""
    metrics = RouteMetrics()
    metrics.count_request(b"GET", 200)
    metrics.count_request(b"GET", 200)
    metrics.count_request(b"PROPFIND", 499)
    assert metrics.requests == {("GET", 200): 2, ("PROPFIND", 499): 1}


@pytest.mark.parametrize("method", [b"", b"get", b"TRACE", b"CONNECT", b"GET ", b"other", b"\xff"])
def test_a_method_outside_the_list(method):
    """It is `other`."""
    metrics = RouteMetrics()
    metrics.count_request(method, 501)
    assert metrics.requests == {("other", 501): 1}


@pytest.mark.parametrize(("code", "counted"), [(99, 500), (100, 100), (599, 599), (600, 500), (0, 500)])
def test_a_code_that_is_none(code, counted):
    """It counts as 500."""
    metrics = RouteMetrics()
    metrics.count_request(b"GET", code)
    assert metrics.requests == {("GET", counted): 1}


def test_thousands_of_random_methods():
    """They are one series."""
    chance = random.Random(1)
    metrics = GatewayMetrics(["orders"])
    for _ in range(5000):
        metrics.unmatched.count_request(chance.randbytes(chance.randrange(12)), 404)
    assert metrics.unmatched.requests == {("other", 404): 5000}
    assert set(metrics.routes) == {"", "orders"}


def test_the_known_methods():
    """They are those that the gateway forwards."""
    assert {method.encode() for method in METHODS} == wire.METHODS
    assert len(set(METHODS)) == len(METHODS)


def test_an_upstream_error():
    """The usual ones stand at zero from the start; any other of the closed set joins them."""
    metrics = RouteMetrics()
    assert metrics.upstream_errors[ErrorType.CONNECTION_REFUSED] == 0
    metrics.count_upstream_error(ErrorType.CONNECTION_REFUSED)
    metrics.count_upstream_error(ErrorType.HTTP_UPGRADE_FAILED)
    assert metrics.upstream_errors[ErrorType.CONNECTION_REFUSED] == 1
    assert metrics.upstream_errors[ErrorType.HTTP_UPGRADE_FAILED] == 1


def test_a_replay():
    """Only the known results count."""
    metrics = RouteMetrics()
    metrics.count_replay("ok")
    assert metrics.replays == {result: int(result == "ok") for result in REPLAY_RESULTS}
    with pytest.raises(KeyError):
        metrics.count_replay("luck")


def test_a_reply_of_our_own():
    """It counts by the suffix of its problem; all of them stand at zero from the start."""
    metrics = GatewayMetrics(["orders"])
    metrics.count_refused(Problem.NO_ROUTE)
    assert metrics.refused == {problem.suffix: int(problem is Problem.NO_ROUTE) for problem in Problem}


def test_a_route():
    """Its counters are reached by name once; what matched none is under the empty name."""
    metrics = GatewayMetrics(["orders"])
    assert metrics.route("orders") is metrics.routes["orders"]
    assert metrics.route("") is metrics.unmatched
    with pytest.raises(KeyError):
        metrics.route("unheard-of")
