"""What reading and writing heads costs: both parsers, framing, and what is done to the answer's fields."""

from __future__ import annotations

from proxy.gateway import rewrite
from proxy.gateway.rescue import token_rejected
from proxy.http1.framing import BodyKind, request_framing, response_framing
from proxy.http1.target import parse_target
from proxy.http1.wire import find_head_end, head_octets, parse_request_head, parse_response_head
from proxy.upstream.persistence import leaves_open
from tests.benchmarks.micro.made import LONG_REQUEST, REQUEST, RESPONSE, Benchmark, snapshot

MAX_FIELDS = 100


def test_find_head_end(benchmark: Benchmark) -> None:
    """The empty line behind a request's head."""
    assert len(REQUEST) == benchmark(find_head_end, REQUEST, 0)


def test_parse_request_head(benchmark: Benchmark) -> None:
    """Five fields."""
    assert len(benchmark(lambda: parse_request_head(REQUEST, max_fields=MAX_FIELDS)).fields) == 5


def test_parse_request_head_of_25_fields(benchmark: Benchmark) -> None:
    """Twenty more."""
    assert len(benchmark(lambda: parse_request_head(LONG_REQUEST, max_fields=MAX_FIELDS)).fields) == 25


def test_parse_response_head(benchmark: Benchmark) -> None:
    """Six fields."""
    assert benchmark(lambda: parse_response_head(RESPONSE, max_fields=MAX_FIELDS)).status == 200


def test_parse_target(benchmark: Benchmark) -> None:
    """Origin-form with a query; ambiguity is looked for elsewhere."""
    assert benchmark(parse_target, b"/orders/7?page=2", b"GET").path == b"/orders/7"


def test_request_framing(benchmark: Benchmark) -> None:
    """A request without a body."""
    head = parse_request_head(REQUEST, max_fields=MAX_FIELDS)

    assert benchmark(request_framing, head.version, head.known).kind is BodyKind.NONE


def test_response_framing(benchmark: Benchmark) -> None:
    """A response with a length."""
    head = parse_response_head(RESPONSE, max_fields=MAX_FIELDS)

    framing = benchmark(
        lambda: response_framing(method=b"GET", status=head.status, version=head.version, found=head.known)
    )

    assert framing.length == 1024


def test_leaves_open(benchmark: Benchmark) -> None:
    """Whether the upstream's connection may be kept."""
    assert benchmark(leaves_open, parse_response_head(RESPONSE, max_fields=MAX_FIELDS))


def test_response_onwards(benchmark: Benchmark) -> None:
    """All that is done to a response's head between both connections."""
    head = parse_response_head(RESPONSE, max_fields=MAX_FIELDS)
    plan = next(iter(snapshot().plans.values()))
    token = plan.source.current() if plan.source is not None else None

    def onwards() -> bytes:
        assert not token_rejected(head)
        rewrite.refuse_reflection(head, token)
        lines = rewrite.inbound_lines(head, plan.response_rules, method=b"GET")
        return head_octets(b"HTTP/1.1 %d %b" % (head.status, head.reason), lines)

    assert b"Cache-Control: no-store\r\n" in benchmark(onwards)
