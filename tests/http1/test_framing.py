"""Body framing of requests and responses, and the chunked coding."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.http1.fields import known
from proxy.http1.framing import (
    LAST_CHUNK,
    MAX_CHUNK_LINE,
    MAX_EXTENSIONS,
    MAX_TRAILERS,
    BodyKind,
    ChunkedDecoder,
    Framing,
    encode_chunk,
    request_framing,
    response_framing,
)

NONE = Framing(BodyKind.NONE)
CHUNKED = Framing(BodyKind.CHUNKED)
UNTIL_CLOSE = Framing(BodyKind.UNTIL_CLOSE)
CL = b"Content-Length"
TE = b"Transfer-Encoding"
LARGEST = 2**63 - 1


def length(octets: int) -> Framing:
    return Framing(BodyKind.LENGTH, octets)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), NONE),
        (((b"Content-Type", b"x"), (b"X-Content-Lengt", b"5")), NONE),
        (((CL, b"0"),), length(0)),
        (((b"cOnTeNt-LeNgTh", b"5"),), length(5)),
        (((CL, b"03"),), length(3)),
        (((CL, str(LARGEST).encode()),), length(LARGEST)),
        (((TE, b"chunked"),), CHUNKED),
        (((b"transfer-ENCODING", b"Chunked"),), CHUNKED),
        (((TE, b", chunked"),), CHUNKED),
        (((TE, b"chunked\t,"),), CHUNKED),
        (((TE, b""), (TE, b"chunked")), CHUNKED),
    ],
)
def test_the_framing_of_a_request(fields, expected):
    """Chunked, a length, or no body; never until close."""
    assert request_framing((1, 1), known(fields)) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"", b"+3", b"-1", b"0x3", b"3 3", b"3, 3", b"3,3", b"1_0", b"3.0", b"1e3", b"\xb2", b"\xd9\xa3", b"3\x0b", b"3;x",
        str(LARGEST + 1).encode(), b"9" * 19, b"9" * 40, b"0" * 20, b"a",
    ],
)  # fmt: skip
def test_a_content_length_that_is_no_number(value):
    """Digits only, within 2**63 - 1: else 400 for a client, a protocol error for an upstream."""
    assert request_problem((CL, value)) is Problem.BAD_REQUEST
    assert upstream_fault((CL, value))


@pytest.mark.parametrize(
    "fields",
    [
        ((CL, b"3"), (CL, b"3")),
        ((CL, b"3"), (CL, b"4")),
        ((CL, b"3"), (TE, b"chunked")),
        ((TE, b"chunked"), (CL, b"3")),
        ((TE, b""), (CL, b"3")),
        ((TE, b"xchunked"), (CL, b"3")),
        ((TE, b""),),
        ((TE, b","),),
        ((TE, b"chunked, chunked"),),
        ((TE, b"chunked"), (TE, b"chunked")),
        ((TE, b"chunked, gzip"),),
        ((TE, b"chunked"), (TE, b"identity")),
        ((TE, b'"chunked"'),),
        ((TE, b"chunked;q=1"),),
        ((TE, b"chunked\x0b"),),
        ((TE, b"\x0cchunked"),),
        ((TE, b"chun ked"),),
        ((TE, b"gzip;, chunked"),),
    ],
)
def test_framing_that_two_could_read_differently(fields):
    """It is refused in either direction, in any order."""
    assert request_problem(*fields) is Problem.BAD_REQUEST
    assert upstream_fault(*fields)


@pytest.mark.parametrize("codings", [b"xchunked", b"identity", b"gzip, chunked", b"gzip", b"chunked2", b"x, y"])
def test_a_coding_other_than_chunked(codings):
    """501 for a client: it is not undone and would be lost; a protocol error for an upstream."""
    assert request_problem((TE, codings)) is Problem.NOT_IMPLEMENTED
    assert upstream_fault((TE, codings))


@pytest.mark.parametrize("fields", [((TE, b"chunked"),), ((TE, b"gzip"),), ((TE, b"chunked"), (CL, b"1"))])
def test_a_transfer_coding_in_http_1_0(fields):
    """It is faulty framing (RFC 9112 §6.1)."""
    assert request_problem(*fields, version=(1, 0)) is Problem.BAD_REQUEST
    assert upstream_fault(*fields, version=(1, 0))


def test_a_length_in_http_1_0():
    """It counts."""
    assert request_framing((1, 0), known(((CL, b"5"),))) == length(5)


def request_problem(*fields, version=(1, 1)):
    with pytest.raises(Refusal) as caught:
        request_framing(version, known(fields))
    return caught.value.problem


def upstream_fault(*fields, version=(1, 1)) -> bool:
    with pytest.raises(GatewayError) as caught:
        response_framing(method=b"GET", status=200, version=version, found=known(fields))
    return (caught.value.error_type, caught.value.side) == (ErrorType.HTTP_PROTOCOL_ERROR, Side.UPSTREAM)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), UNTIL_CLOSE),
        (((CL, b"0"),), length(0)),
        (((CL, b"1024"),), length(1024)),
        (((TE, b"chunked"),), CHUNKED),
        (((b"Connection", b"close"),), UNTIL_CLOSE),
    ],
)
def test_the_framing_of_a_response(fields, expected):
    """Chunked, a length, or until the connection closes."""
    assert response_framing(method=b"GET", status=200, version=(1, 1), found=known(fields)) == expected


@pytest.mark.parametrize("fields", [(), ((CL, b"5"),), ((TE, b"chunked"),), ((CL, b"5"), (TE, b"chunked"))])
@pytest.mark.parametrize(
    ("method", "status"),
    [(b"HEAD", 200), (b"HEAD", 404), (b"GET", 100), (b"GET", 101), (b"GET", 103), (b"GET", 199), (b"POST", 204), (b"GET", 304)],
)  # fmt: skip
def test_a_response_without_a_body(method, status, fields):
    """To HEAD, 1xx, 204 and 304 have none, whatever their fields say (RFC 9112 §6.3)."""
    assert response_framing(method=method, status=status, version=(1, 1), found=known(fields)) == NONE


@pytest.mark.parametrize("status", [200, 201, 205, 206, 301, 303, 305, 400, 500])
def test_a_response_with_a_body(status):
    """Every other status has one; the method `head` is not HEAD."""
    assert response_framing(method=b"head", status=status, version=(1, 0), found={}) == UNTIL_CLOSE


def decoded(*parts: bytes) -> tuple[bytes, bool, bytes]:
    decoder = ChunkedDecoder()
    pieces = [piece for part in parts for piece in decoder.feed(part)]
    coded = b"".join(parts)
    return b"".join(pieces), decoder.done, coded[len(coded) - decoder.beyond :]


@pytest.mark.parametrize(
    ("coded", "body", "tail"),
    [
        (LAST_CHUNK, b"", b""),
        (b"000\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", b""),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
        (b'5;a;b=c;d="e;\t\xe9" \r\nhello\r\n0;x\r\n\r\n', b"hello", b""),
        (b"5 \t;a\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"0\r\nContent-Length: 9\r\nX-Sum: \xe9\r\nEmpty:\r\n\r\n", b"", b""),
        (b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", b"x", b"HTTP/1.1 200 OK\r\n"),
    ],
)
def test_a_chunked_body(coded, body, tail):
    """The body's octets come out; extensions and trailers are dropped; what follows is the tail."""
    assert decoded(coded) == (body, True, tail)


@pytest.mark.parametrize(
    "coded",
    [b"", b"5", b"5\r", b"5\r\n", b"5\r\nhell", b"5\r\nhello", b"5\r\nhello\r", b"5\r\nhello\r\n", b"0\r\n", b"0\r\n\r",
     b"0\r\nA: b\r\n", b"0\r\nA"],
)  # fmt: skip
def test_a_chunked_body_that_is_cut(coded):
    """It is not done: an end of the connection here is a truncation."""
    assert not decoded(coded)[1]


def test_pieces_as_they_come():
    """Body octets are not held back until their chunk is whole."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"a\r\n01") == [b"01"]
    assert decoder.feed(b"234") == [b"234"]
    assert decoder.feed(b"56789\r\n2\r\nxy\r") == [b"56789", b"xy"]
    assert decoder.feed(b"\n0\r\n") == []
    assert not decoder.done
    assert decoder.feed(b"\r\nnext") == []
    assert decoder.feed(b" one") == []
    assert (decoder.done, decoder.beyond) == (True, len(b"next one"))


@pytest.mark.parametrize(
    "coded",
    [
        b"\r\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"5\t\r\n", b"+5\r\n", b"-5\r\n", b"0x5\r\n", b"5_0\r\n", b"5h\r\n",
        b"g\r\n", b"5,5\r\n", b"5.\r\n", b"\xb5\r\n", b";x\r\n", b"5;\x00\r\n", b"5;\r\r\n", b"5;a\nb\r\n", b"5\r \n\r\n",
        b"5\n", b"5\nhello\r\n", b"\n", b"5\r\nhello\n", b"5\r\nhelloX", b"5\r\nhello\rX", b"5\r\nhello0\r\n",
        b"5\r\nhell\r\n0\r\n\r\n", b"10000000000000000\r\n", b"ffffffffffffffff\r\n", b"8000000000000000\r\n",
        b"00000000000000005\r\n", b"0\r\n\n", b"0\r\nA: b\n", b"0\r\n A: b\r\n", b"0\r\nA : b\r\n", b"0\r\nA\r\n",
        b"0\r\n: b\r\n", b"0\r\nA: \x00\r\n", b"0\r\nA: b\r\n c\r\n",
    ],
)  # fmt: skip
def test_what_is_not_the_chunked_coding(coded):
    """Another size than plain digits, another line end than CRLF, a chunk of another length: refused at once."""
    with pytest.raises(ValueError):
        decoded(coded)
    with pytest.raises(ValueError):
        decoded(*(coded[i : i + 1] for i in range(len(coded))))


def test_the_largest_chunk():
    """A size that everyone can count to is taken."""
    assert decoded(b"7fffffffffffffff\r\nx") == (b"x", False, b"")


@pytest.mark.parametrize("step", [1, 7, 100_000], ids="{} octets at a time".format)
def test_a_chunk_line_at_its_limit(step):
    """The limit passes, one octet more does not, with or without its line end."""
    line = b"1;" + b"x" * (MAX_CHUNK_LINE - 2)
    assert decoded(*cut(line + b"\r\nA\r\n0\r\n\r\n", step)) == (b"A", True, b"")
    for longer in (line + b"x\r\n", line + b"xx", line + b"\r\r"):
        with pytest.raises(ValueError):
            decoded(*cut(longer, step))


@pytest.mark.parametrize("step", [1, 7, 100_000], ids="{} octets at a time".format)
def test_extensions_beyond_all_data(step):
    """Small chunks with long extensions are work for nothing; beside data that is worth it they pass."""
    costly, cheap = b"1;" + b"x" * 1000 + b"\r\nA\r\n", b"200;" + b"x" * 1000 + b"\r\n" + b"A" * 512 + b"\r\n"
    fitting = MAX_EXTENSIONS // 984  # what each is longer than a plain line and its data account for
    assert decoded(*cut(costly * fitting + cheap * 50 + b"0\r\n\r\n", step))[1]
    with pytest.raises(ValueError):
        decoded(*cut(costly * (fitting + 1), step))


@pytest.mark.parametrize("step", [1, 7, 100_000], ids="{} octets at a time".format)
def test_trailers_at_their_limit(step):
    """All trailer lines together are bounded, and so is one that never ends."""
    line = b"A: " + b"x" * 59 + b"\r\n"
    fitting = line * (MAX_TRAILERS // len(line) - 1)
    assert decoded(*cut(b"0\r\n" + fitting + b"\r\n", step))[1]
    for longer in (fitting + line + line, b"A: " + b"x" * MAX_TRAILERS):
        with pytest.raises(ValueError):
            decoded(*cut(b"0\r\n" + longer + b"\r\n", step))


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[i : i + step] for i in range(0, len(data), step)]


def outcome(parts: list[bytes]) -> tuple[bytes, bool, bytes] | str:
    try:
        return decoded(*parts)
    except ValueError:
        return "refused"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=8)
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a", b' ;a="b;c"', b";" + b"x" * 40])
TRAILERS = st.sampled_from([b"", b"X-Sum: 1\r\n", b"A:\r\nB: \xff\r\n"])


@settings(deadline=None, max_examples=300)
@given(BODIES, EXTENSIONS, TRAILERS, st.binary(max_size=20), CUTS)
def test_a_body_cut_anywhere(pieces, extension, trailers, tail, cuts):
    """However the stream is cut, the body, its end and the tail are the same as whole."""
    coded = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    coded += b"0\r\n" + trailers + b"\r\n" + tail
    assert outcome(split(coded, cuts)) == (b"".join(pieces), True, tail)


FRAGMENTS = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"0", b"1", b"5", b"a", b"hello", b";", b" ", b"0\r\n\r\n", b"A: b\r\n", b"5\r\nhello\r\n", b"\x00"]
    ),
    max_size=10,
).map(b"".join)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(FRAGMENTS, CUTS)
@example(b"5\r\nhello\r\n0\r\n\r\n\n", [3])
@example(b"5\n\r\n", [1])
def test_any_stream_cut_anywhere(coded, cuts):
    """A malformed stream is refused however it is cut; an unfinished one is unfinished either way."""
    assert outcome(split(coded, cuts)) == outcome([coded])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), CUTS)
def test_chunks_encoded_and_decoded(pieces, cuts):
    """What `encode_chunk` writes, the decoder reads; no piece ends the body early, an empty one least of all."""
    coded = b"".join(map(encode_chunk, pieces)) + LAST_CHUNK
    assert outcome(split(coded, cuts)) == (b"".join(pieces), True, b"")


def test_no_data_as_a_chunk():
    """Nothing is written: an empty chunk would end the body."""
    assert encode_chunk(b"") == b""


def test_a_large_body_piece_by_piece():
    """What is kept between two feeds is at most one line, however large the body."""
    decoder = ChunkedDecoder()
    decoder.feed(b"%x\r\n" % (1 << 30))
    piece = b"x" * 65536
    for _ in range(100):
        assert decoder.feed(piece)[0] is piece
    assert decoder._kept == b""
