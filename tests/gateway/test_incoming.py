"""The follower of a connection's input: only well-formed octets go on, however they were cut, and aiohttp reads them alike."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from random import Random

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParserC  # type: ignore[attr-defined]
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


def fed(pieces: list[bytes], limits: Limits = LIMITS) -> tuple[bytes, Incoming]:
    incoming = Incoming(limits)
    return b"".join(incoming.feed(piece) for piece in pieces), incoming


def requests_in(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the head and the body of each request; a body that is not whole as far as it is there."""
    found = []
    while octets:
        head, _, octets = octets.partition(b"\r\n\r\n")
        body = b""
        if re.search(rb"(?i)\nTransfer-Encoding:[ \t]*chunked", head):
            while octets:
                line, _, octets = octets.partition(b"\r\n")
                size = int(line, 16)
                body, octets = body + octets[:size], octets[size + 2 :]
                if not size:
                    break
        elif (length := re.search(rb"(?i)\nContent-Length:[ \t]*(\d+)", head)) is not None:
            body, octets = octets[: int(length[1])], octets[int(length[1]) :]
        found.append((head, body))
    return found


@given(
    st.lists(st.sampled_from([GET, POST, CHUNKED, b"\r\n" + GET]), min_size=1, max_size=5),
    st.lists(st.integers(min_value=0, max_value=400), max_size=12),
)
def test_any_cut_passes_the_same(requests: list[bytes], cuts: list[int]):
    """All good requests go on, whatever pieces they come in: heads as they came, but for empty lines before them."""
    whole = b"".join(requests)
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    passed, incoming = fed([whole[start:end] for start, end in pairwise(at)])
    bodies = {GET: b"", POST: b"GET /", CHUNKED: b"abc"}
    expected = [(request.partition(b"\r\n\r\n")[0], bodies[request]) for request in (r.lstrip() for r in requests)]
    assert expected == requests_in(passed)
    assert len(requests) == incoming.heads
    assert incoming.fault is None
    assert not incoming.head_under_way
    assert not incoming.body_under_way


def test_chunks_go_on_in_chunks_of_ours():
    """No extension, no trailer and no spelling of a size comes through; neighbouring chunks become one."""
    line = CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    passed, _ = fed([line + b"3;x=y\r\nabc\r\n0002\r\nde\r\n000\r\nContent-Length: 5\r\n\r\n" + GET])
    assert line + b"5\r\nabcde\r\n0\r\n\r\n" + GET == passed


@pytest.mark.parametrize("codings", [b", chunked", b"Chunked", b"chunked ,", b"\r\nTransfer-Encoding: chunked"])
def test_chunked_framing_goes_on_in_its_plainest_form(codings: bytes):
    """What aiohttp makes of a list with empty members need not be asked."""
    passed, incoming = fed(
        [b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: " + codings + b"\r\nA: b\r\n\r\n0\r\n\r\n"]
    )
    assert b"POST / HTTP/1.1\r\nHost: h\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" == passed
    assert incoming.fault is None


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "last",
    [
        pytest.param(GET.replace(b"Host", b"Connection: x, Close\r\nHost"), id="close"),
        pytest.param(POST.replace(b"Host", b"Connection: close\r\nHost"), id="close with a body"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", id="HTTP/1.0 with both"),
    ],
)
def test_what_follows_the_last_request(last: bytes, size: int):
    """It is dropped, whatever it is: the client said that nothing follows (RFC 9112 §9.6)."""
    for after in (GET, b"garbage", b"\r\n\r\n"):
        whole = GET + last + after
        passed, incoming = fed([whole[at : at + size] for at in range(0, len(whole), size)])
        assert GET + last == passed
        assert (2, None) == (incoming.heads, incoming.fault)
        assert not incoming.head_under_way


def test_an_http_1_0_connection_that_is_kept():
    """`Connection: keep-alive` lets another request follow."""
    kept = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    assert kept + GET == fed([kept + GET])[0]


class CountedBytes(bytes):
    """Octets that count how many of them were copied by slicing, slices of slices included."""

    copied = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        if isinstance(key, slice):
            CountedBytes.copied += len(part)
            return CountedBytes(part)
        return part


@pytest.mark.parametrize("request_octets", [GET, POST, CHUNKED], ids=["heads", "bodies", "chunks"])
def test_a_large_piece_of_small_requests(request_octets: bytes):
    """Each octet is copied once or twice, however many requests lie in one piece: the work is linear."""
    whole = CountedBytes(request_octets * (256 * KIB // len(request_octets)))
    CountedBytes.copied = 0
    passed, incoming = fed([whole])
    assert incoming.heads * len(request_octets) == len(whole)
    assert len(passed) // 2 <= CountedBytes.copied <= 2 * len(whole)


# ---- what goes on, against aiohttp's own parser


async def read_by_aiohttp(octets: bytes) -> list[tuple[str, str, bytes]] | str:
    """Returns method, target and body of each request as aiohttp's parser reads them, or why it refuses."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    limits = {"max_line_size": 1 << 16, "max_field_size": 1 << 16, "max_headers": 200, "auto_decompress": False}
    parser = HttpRequestParserC(protocol, loop, 1 << 22, max_msg_queue_size=100, **limits)
    try:
        messages, upgraded, tail = parser.feed_data(octets)
        assert (False, b"") == (upgraded, tail)
        return [(message.method, message.path, await payload.read()) for message, payload in messages]
    except HttpProcessingError as error:
        return str(error)


def mutated(request: bytes, random: Random) -> bytes:
    """Returns a request with a few octets changed, doubled, inserted or taken out."""
    octets = bytearray(request)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(octets))
        match random.randrange(4):
            case 0:
                octets[at] = random.choice(ODD)
            case 1:
                octets.insert(at, random.choice(ODD))
            case 2:
                del octets[at]
            case _:
                end = min(len(octets), at + random.randrange(1, 12))
                octets[at:at] = octets[at:end]
    return bytes(octets)


ODD = b"\x00\x01\t\n\x0b\r \"',:;=/\\09aAfgxX\x7f\x80\xe9\xff%?#-+_.()[]"
SEEDS = [
    CHUNKED,
    b'PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a;b=c;d="e"\r\nabc\r\n00A ; x\r\n0123456789\r\n0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nConnection: close\r\n\r\n',
    POST,
    GET,
    b"GET http://h/a?b HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\nA: \xe9\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 003\r\n\r\nabc",
]


@pytest.mark.parametrize("cases", [2000, pytest.param(50_000, marks=pytest.mark.slow)])
async def test_aiohttp_reads_what_goes_on_as_we_do(cases: int):
    """It refuses some heads that we pass, for their method, target or Host, but no body; what it reads, we read alike."""
    random = Random(31)
    passed_on = refused_heads = 0
    for _ in range(cases):
        whole = b"".join(mutated(random.choice(SEEDS), random) for _ in range(random.randrange(1, 3)))
        passed, incoming = fed([whole], Limits())
        if not passed or incoming.fault_in_body or incoming.body_under_way or incoming.upgrade is not None:
            continue
        read = await read_by_aiohttp(passed)
        if isinstance(read, str):
            refused_heads += 1
            heads = b"".join(head + b"\r\n\r\n" for head, _ in requests_in(passed))
            without_bodies = re.sub(rb"(?i)\n(Transfer-Encoding|Content-Length):", b"\nX:", heads)
            assert isinstance(await read_by_aiohttp(without_bodies), str), whole
            continue
        passed_on += 1
        expected = [
            (*(part.decode("ascii") for part in head.split(b" ", 2)[:2]), body) for head, body in requests_in(passed)
        ]
        assert expected == read, whole
    assert passed_on > cases // 5
    assert 0 < refused_heads < cases // 10


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
        pytest.param(b"\r\n" * 5 + GET, Problem.BAD_REQUEST, id="five empty lines"),
        pytest.param(b"\n" + GET, Problem.BAD_REQUEST, id="empty line without CR"),
        pytest.param(b"\r" + GET, Problem.BAD_REQUEST, id="empty line without LF"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\r\n\r\n", Problem.BAD_REQUEST, id="TLS on a plain port"),
    ],
)
@pytest.mark.parametrize("before", [b"", GET, POST + CHUNKED], ids=["first", "second", "third"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_first_fault_ends_it(data: bytes, problem: Problem, before: bytes, size: int):
    """What came before a fault goes on, nothing from the fault on does; at any position the same problem."""
    whole = before + data + GET
    passed, incoming = fed([whole[at : at + size] for at in range(0, len(whole), size)])
    assert requests_in(fed([before])[0]) == requests_in(passed)
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


@pytest.mark.parametrize("size", [1, 9, 10_000])
def test_the_first_asks_for_another_protocol(size: int):
    """Its head is kept back, and what follows is not looked at: it is the other protocol's."""
    head = b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: chess\r\n\r\n"
    incoming = Incoming(LIMITS)
    for at in range(0, len(head), size):
        assert b"" == incoming.feed(head[at : at + size])
    assert incoming.upgrade is not None
    assert b"/chat" == incoming.upgrade.target
    assert b"\x81\x05 \r\n\r\n" == fed([head + b"\x81\x05 \r\n\r\n"])[0]


@pytest.mark.parametrize("size", [1, 9, 10_000])
def test_a_later_one_asks_for_another_protocol(size: int):
    """It goes on as an ordinary request, the last of its connection: what follows is not read as a request."""
    head = b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chess\r\n\r\n"
    whole = GET + head + GET
    passed, incoming = fed([whole[at : at + size] for at in range(0, len(whole), size)])
    assert GET + head.replace(b"Upgrade: chess\r\n", b"Connection: close\r\n") == passed
    assert (2, None, None) == (incoming.heads, incoming.upgrade, incoming.fault)


@pytest.mark.parametrize("before", [b"", GET])
def test_an_upgrade_with_a_body(before: bytes):
    """Refused at any position: where its body ends and the other protocol begins could be read in two ways."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chess\r\nContent-Length: 5\r\n\r\n"
    passed, incoming = fed([before + head + b"GET /"])
    assert (before, len(before) > 0) == (passed, incoming.heads)
    assert incoming.fault is not None
    assert Problem.BAD_REQUEST is incoming.fault.problem


def test_http_2_is_never_asked_for():
    """Its request goes on without asking, and its connection with it."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n"
    passed, incoming = fed([head + GET])
    assert head.replace(b"Upgrade: h2c\r\n", b"") + GET == passed
    assert (2, None) == (incoming.heads, incoming.upgrade)
