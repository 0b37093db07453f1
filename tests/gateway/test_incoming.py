"""The follower of a connection's input: only well-formed octets go on, however they were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Problem
from proxy.gateway.incoming import Incoming
from proxy.gateway.settings import Limits
from proxy.units import KIB

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nGET /"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
BAD_CHUNKS = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n"
LIMITS = Limits(head_bytes=1 * KIB, field_count=5)


def fed(pieces: list[bytes]) -> tuple[bytes, Incoming]:
    incoming = Incoming(LIMITS)
    return b"".join(incoming.feed(piece) for piece in pieces), incoming


@given(
    st.lists(st.sampled_from([GET, POST, CHUNKED, b"\r\n" + GET]), min_size=1, max_size=5),
    st.lists(st.integers(min_value=0, max_value=400), max_size=12),
)
def test_any_cut_passes_the_same(requests: list[bytes], cuts: list[int]):
    """All octets of good requests go on, whatever pieces they come in; empty lines between them are dropped."""
    whole = b"".join(requests)
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    passed, incoming = fed([whole[start:end] for start, end in pairwise(at)])
    assert whole.replace(b"\r\n\r\nGET /a", b"GET /a").replace(b"\r\nGET /a", b"GET /a") == passed.replace(
        b"\r\n\r\nGET /a", b"GET /a"
    ).replace(b"\r\nGET /a", b"GET /a")
    assert len(requests) == incoming.heads
    assert incoming.fault is None
    assert not incoming.head_under_way


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", Problem.VERSION_NOT_SUPPORTED, id="version"),
        pytest.param(b"GET /\r\n\r\n", Problem.BAD_REQUEST, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/1.1\nHost: h\n\n", Problem.BAD_REQUEST, id="bare LF"),
        pytest.param(b"GET /" + b"a" * 2000, Problem.TARGET_TOO_LONG, id="endless target"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"a" * 2000, Problem.HEAD_TOO_LARGE, id="endless field"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 6 + b"\r\n", Problem.HEAD_TOO_LARGE, id="6 fields"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", Problem.NOT_IMPLEMENTED, id="coding"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\r\n\r\n", Problem.BAD_REQUEST, id="TLS on a plain port"),
    ],
)
@pytest.mark.parametrize("before", [b"", GET, POST + CHUNKED], ids=["first", "second", "third"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_first_fault_ends_it(data: bytes, problem: Problem, before: bytes, size: int):
    """What came before a fault goes on, nothing from the fault on does; at any position the same problem."""
    whole = before + data + GET
    passed, incoming = fed([whole[at : at + size] for at in range(0, len(whole), size)])
    assert before == passed
    assert incoming.fault is not None
    assert problem is incoming.fault.problem
    assert not incoming.fault_in_body


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_a_fault_in_a_body(size: int):
    """A malformed chunk is told apart: the request before it has begun."""
    whole = BAD_CHUNKS + GET
    passed, incoming = fed([whole[at : at + size] for at in range(0, len(whole), size)])
    assert incoming.fault_in_body
    assert 1 == incoming.heads
    assert b"ZZ\r\n" not in passed
