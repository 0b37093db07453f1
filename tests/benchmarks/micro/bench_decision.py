"""What a decision costs, from the parsed head to the octets for the upstream, and its parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy import log
from proxy.clock import SystemClock
from proxy.gateway.decide import Forward, decide
from proxy.gateway.problem import Reply
from proxy.gateway.record import RequestRecord
from proxy.gateway.rewrite import outbound_lines
from proxy.gateway.settings import LogSettings
from proxy.gateway.snapshot import Snapshot
from proxy.http1.framing import request_framing
from proxy.http1.wire import head_octets, parse_request_head
from proxy.metrics import Histogram
from tests.benchmarks.micro.made import LONG_REQUEST, REQUEST, REQUEST_ID, VISITOR, Benchmark, snapshot

CLOCK = SystemClock()


@pytest.mark.parametrize("routes", [1, 100, 10_000])
def test_decide(benchmark: Benchmark, routes: int) -> None:
    """Every rule, the route and the token; it must not cost more with more routes."""
    head, in_force = parse_request_head(REQUEST, max_fields=100), snapshot(routes)

    assert isinstance(benchmark(decide, head, VISITOR, REQUEST_ID, in_force, CLOCK.now()), Forward)


def test_decide_with_25_fields(benchmark: Benchmark) -> None:
    """Twenty fields more."""
    head, in_force = parse_request_head(LONG_REQUEST, max_fields=100), snapshot()

    assert isinstance(benchmark(decide, head, VISITOR, REQUEST_ID, in_force, CLOCK.now()), Forward)


def test_decide_to_refuse(benchmark: Benchmark) -> None:
    """No route: what a scanner costs."""
    head = parse_request_head(REQUEST.replace(b"/orders", b"/nowhere"), max_fields=100)

    assert isinstance(benchmark(decide, head, VISITOR, REQUEST_ID, snapshot(), CLOCK.now()), Reply)


def test_outbound_head(benchmark: Benchmark) -> None:
    """Fields stripped and set, and written."""
    head = parse_request_head(REQUEST, max_fields=100)
    (plan,) = snapshot().plans.values()
    framing = request_framing(head.version, head.known)

    def written() -> bytes:
        lines = outbound_lines(head, plan.request_rules, VISITOR, host=b"localhost:8080", framing=framing)
        return head_octets(b"GET /orders/7 HTTP/1.1", lines)

    assert b"X-Forwarded-For: 127.0.0.1\r\n" in benchmark(written)


def test_token_read(benchmark: Benchmark) -> None:
    """The token of a credential, and that it is usable."""
    (plan,) = snapshot().plans.values()
    assert plan.source is not None

    assert benchmark(plan.source.current) is not None


def _counted(in_force: Snapshot, settings: LogSettings) -> int:
    """A request's whole record; returns the status."""
    (plan,) = in_force.plans.values()
    record = RequestRecord(
        in_force, CLOCK, method=b"GET", target=b"/", peer="127.0.0.1", request_id=REQUEST_ID, settings=settings
    )
    record.routed(plan)
    record.sent()
    record.answered()
    record.replied(200)
    record.finish()
    return record.status


def test_record(benchmark: Benchmark) -> None:
    """All that is counted of one request, without the access log."""
    assert benchmark(_counted, snapshot(), LogSettings(access=False)) == 200


def test_record_with_its_line(benchmark: Benchmark) -> None:
    """The same with its access line, up to the queue of the thread that writes it."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        handle = log.configure("json", "info", nowhere)
        try:
            assert benchmark(_counted, snapshot(), LogSettings(access=True)) == 200
        finally:
            handle.detach()


def test_histogram(benchmark: Benchmark) -> None:
    """One duration."""
    histogram = Histogram()
    benchmark(histogram.observe, 0.003)

    assert histogram.count
