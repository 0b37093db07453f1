"""Heads of requests and responses: read strictly and in linear time, written without another's line breaks."""

from __future__ import annotations

import time

import h11
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proxy.errors import ErrorType, GatewayError, Problem, Refusal, Side
from proxy.http1 import wire
from proxy.http1.fields import is_field_value, is_token
from proxy.http1.wire import (
    METHODS,
    RequestHead,
    ResponseHead,
    find_head_end,
    parse_request_head,
    parse_response_head,
    request_head,
    response_head,
)
from proxy.units import KIB

LINE = b"GET / HTTP/1.1\r\n"
STATUS = b"HTTP/1.1 200 OK\r\n"


def parse(data: bytes, max_fields: int = 100) -> RequestHead:
    return parse_request_head(data, max_fields=max_fields)


def problem(data: bytes, max_fields: int = 100) -> Problem:
    with pytest.raises(Refusal) as caught:
        parse(data, max_fields)
    return caught.value.problem


def fault(data: bytes, max_fields: int = 100) -> ErrorType:
    with pytest.raises(GatewayError) as caught:
        parse_response_head(data, max_fields=max_fields)
    assert caught.value.side is Side.UPSTREAM
    return caught.value.error_type


def test_a_request_head():
    """Names keep their spelling, lines their order, values their bytes but for surrounding white space."""
    head = parse(
        b"POST /a?b=%7e HTTP/1.1\r\nhOST: h:1\r\nX-A:1\r\nSet-Cookie: a \t b\r\nset-cookie: \t b\t \r\nX-Empty:\r\n"
        b"X-Blank: \t\r\nX-Obs: caf\xe9\r\nX-Colon: a:b: c\r\n\r\n"
    )
    assert head == RequestHead(
        method=b"POST",
        target=b"/a?b=%7e",
        version=(1, 1),
        fields=(
            (b"hOST", b"h:1"),
            (b"X-A", b"1"),
            (b"Set-Cookie", b"a \t b"),
            (b"set-cookie", b"b"),
            (b"X-Empty", b""),
            (b"X-Blank", b""),
            (b"X-Obs", b"caf\xe9"),
            (b"X-Colon", b"a:b: c"),
        ),
    )


@pytest.mark.parametrize("blank", [0, 1, 4], ids="{} empty lines before".format)
def test_a_request_head_without_fields(blank):
    """A few empty lines before the request line are passed over (RFC 9112 §2.2)."""
    data = b"\r\n" * blank + b"OPTIONS * HTTP/1.0\r\n\r\n"
    assert find_head_end(data, 0) == len(data)
    assert parse(data) == RequestHead(b"OPTIONS", b"*", (1, 0), ())


@pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"3.0", b"0.0", b"9.9"])
def test_another_version_of_http(version):
    """It is grammatical, and not spoken."""
    assert problem(b"GET / HTTP/" + version + b"\r\n\r\n") is Problem.VERSION_NOT_SUPPORTED


def test_the_preface_of_http_2():
    """Prior knowledge of HTTP/2 is told that it is not spoken."""
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert problem(data[: find_head_end(data, 0)]) is Problem.VERSION_NOT_SUPPORTED


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\r\n\r\n", b"GET /\r\n\r\n", b"GET / \r\n\r\n", b"GET  / HTTP/1.1\r\n\r\n", b"GET /  HTTP/1.1\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\n\r\n", b"GET /\tHTTP/1.1\r\n\r\n", b" GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1 \r\n\r\n",
        b"GET / http/1.1\r\n\r\n", b"GET / HTTP/1\r\n\r\n", b"GET / HTTP/11.1\r\n\r\n", b"GET / HTTP/1.10\r\n\r\n",
        b"GET / HTTP/1,1\r\n\r\n", b"GET / HTTP/\xb9.1\r\n\r\n", b"GET / HTTPS/1.1\r\n\r\n", b"GET / ICY/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", b"G(T / HTTP/1.1\r\n\r\n", b"G\xe9T / HTTP/1.1\r\n\r\n", b" / HTTP/1.1\r\n\r\n",
        b"\r\n" * 5 + b"GET / HTTP/1.1\r\n\r\n", b"\nGET / HTTP/1.1\r\n\r\n", b"\rGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\n\r\n", b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\r\n\r\n", b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ],
)  # fmt: skip
def test_a_request_line_that_is_none(data):
    """One space twice, a token, visible ASCII, HTTP/ and two digits, CRLF: anything else is refused."""
    assert problem(data) is Problem.BAD_REQUEST


MALFORMED_FIELDS = [
    b"Host : h\r\n", b"Host\t: h\r\n", b" Host: h\r\n", b"\tHost: h\r\n", b"A: b\r\n c\r\n", b"A: b\r\n\tc\r\n", b"A: b\r\n \r\n",
    b": h\r\n", b"Host\r\n", b"Ho st: h\r\n", b"H\xe9: h\r\n", b"H(: h\r\n", b"\x00: h\r\n", b"A: b\n", b"A: b\nC: d\r\n",
    b"A: b\r", b"A: b\rC: d\r\n", b"A: b\r\r\n", b"A: \r\r\n", b"A\r: b\r\n", b"A:\n b\r\n", b"A: b\r\nC: d\n",
    b"A: \x00\r\n", b"A: \x01\r\n", b"A: b\x0b\r\n", b"A: \x0cb\r\n", b"A: \x1f\r\n", b"A: \x7f\r\n", b"A: b\x85\x0b\r\n",
    b"A: b\r\n\r\nC: d\r\n", b"\r\nA: b\r\n",
]  # fmt: skip


@pytest.mark.parametrize("lines", MALFORMED_FIELDS)
def test_field_lines_that_are_none(lines):
    """White space before or in a name, a fold, a bare CR or LF, a control: refused in both directions."""
    assert problem(LINE + b"X: y\r\n" + lines + b"\r\n") is Problem.BAD_REQUEST
    assert problem(LINE + lines + b"X: y \r\n\r\n") is Problem.BAD_REQUEST
    assert fault(STATUS + b"X: y\r\n" + lines + b"\r\n") is ErrorType.HTTP_PROTOCOL_ERROR
    assert fault(STATUS + lines + b"X: y \r\n\r\n") is ErrorType.HTTP_PROTOCOL_ERROR


@pytest.mark.parametrize("lines", [b"", b"\r", b"A: b", b"A: b\r\n", b"A: b\r\n\r", b"A: b\n\r\n", b"A: b\r\n\n"])
def test_a_head_that_is_not_whole(lines):
    """Without its empty line it is refused; no field is silently lost."""
    assert problem(LINE + lines) is Problem.BAD_REQUEST
    assert fault(STATUS + lines) is ErrorType.HTTP_PROTOCOL_ERROR


def test_every_octet_in_a_head():
    """Each octet in a name and in a value is judged as the grammar of fields judges it."""
    for number in range(256):
        octet = bytes([number])
        assert parsed(LINE + b"a" + octet + b"a: v\r\n\r\n") == (is_token(octet) or octet == b":")
        assert parsed(LINE + b"a: v" + octet + b"v\r\n\r\n") == is_field_value(octet)


def parsed(data: bytes) -> bool:
    try:
        parse(data)
    except Refusal:
        return False
    return True


@pytest.mark.parametrize(("count", "passes"), [(0, True), (3, True), (4, False)], ids=["none", "limit", "limit + 1"])
def test_the_number_of_fields(count, passes):
    """The limit passes, one more does not."""
    lines = b"A: b\r\n" * count + b"\r\n"
    if passes:
        assert len(parse(LINE + lines, 3).fields) == count
        assert len(parse_response_head(STATUS + lines, max_fields=3).fields) == count
    else:
        assert problem(LINE + lines, 3) is Problem.HEAD_TOO_LARGE
        assert fault(STATUS + lines, 3) is ErrorType.HTTP_RESPONSE_HEADER_SECTION_SIZE


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", ((1, 1), 200, b"OK")),
        (b"HTTP/1.0 100 Continue", ((1, 0), 100, b"Continue")),
        (b"HTTP/1.1 599 ", ((1, 1), 599, b"")),
        (b"HTTP/1.1 204", ((1, 1), 204, b"")),
        (b"HTTP/1.1 404 Ni\xc3\xa9  \t!", ((1, 1), 404, b"Ni\xc3\xa9  \t!")),
    ],
)
def test_a_status_line(line, expected):
    """The reason keeps its bytes and may be missing, space and all, as some servers send it."""
    head = parse_response_head(line + b"\r\nA: b\r\n\r\n", max_fields=1)
    assert head == ResponseHead(*expected, ((b"A", b"b"),))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"HTTP/2.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/0.9 200 OK", b"http/1.1 200 OK", b"ICY 200 OK", b"HTTP/1.1 000 X",
        b"HTTP/1.1 099 X", b"HTTP/1.1 600 X", b"HTTP/1.1 999 X", b"HTTP/1.1 20 X", b"HTTP/1.1 2000 X", b"HTTP/1.1 2x0 X",
        b"HTTP/1.1 +20 X", b"HTTP/1.1  200 X", b"HTTP/1.1\t200 X", b"HTTP/1.1 200\tX", b"HTTP/1.1 200X", b" HTTP/1.1 200 X",
        b"\r\nHTTP/1.1 200 OK", b"HTTP/1.1 200 a\x00", b"HTTP/1.1 200 a\rb", b"HTTP/1.1 200 a\nb", b"HTTP/1.1 \xb2\xb0\xb0 X",
    ],
)  # fmt: skip
def test_a_status_line_that_is_none(line):
    """HTTP/1.0 or 1.1, one space, 100 to 599: anything else is the upstream's fault."""
    assert fault(line + b"\r\n\r\n") is ErrorType.HTTP_PROTOCOL_ERROR


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"Content-Type", b"Content-Range", b"Content-Location", b"Location", b"ETag", b"Max-Forwards"],
)
@pytest.mark.parametrize("second", [b"1", b"2"], ids=["same", "different"])
def test_a_field_twice_that_may_stand_once(name, second):
    """Which one counts is open, so neither does."""
    assert fault(STATUS + name + b": 1\r\nX: y\r\n" + name.swapcase() + b": " + second + b"\r\n\r\n") is (
        ErrorType.HTTP_PROTOCOL_ERROR
    )


def test_a_field_twice_that_may_be_repeated():
    """Lists, and fields whose repetition harms no one, pass as they are."""
    lines = (
        (b"Set-Cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"Date", b"x"),
        (b"Date", b"x"),
        (b"Vary", b"a"),
        (b"Vary", b"b"),
    )
    data = response_head(200, b"OK", lines)
    assert parse_response_head(data, max_fields=9).fields == lines


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", -1), (b"\r", -1), (b"\r\n", -1), (b"\r\n\r\n", -1), (b"\r\n" * 4, -1), (LINE, -1), (LINE + b"\r", -1),
        (LINE + b"\r\n", 18), (LINE + b"\r\nGET", 18), (b"\r\n" + LINE + b"\r\n", 20), (b"\r\n\r\n" + LINE + b"\r\n", 22),
        (b"\r\n\r\n" + LINE, -1), (b"\r\n" * 6, 12), (b"\n", 1), (b"GET / HTTP/1.1\n", 15), (LINE + b"A: b\n", 21),
        (b"\r\n\n", 3), (LINE + b"\n", 17),
    ],
)  # fmt: skip
def test_the_end_of_a_head(data, end):
    """An empty line after a request line; empty lines before it end nothing; a bare LF ends what no parser takes."""
    assert find_head_end(data, 0) == end
    assert find_head_end(bytearray(data), 0) == end
    if end >= 0 and not data.startswith(LINE + b"\r\n") and LINE + b"\r\n" not in data:
        assert problem(data[:end]) is Problem.BAD_REQUEST


HEADS = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", LINE, b"A: b", b"\r\n\r\n", b": "]), max_size=8).map(b"".join)


@settings(deadline=None, max_examples=500)
@given(HEADS, st.integers(1, 5))
@example(b"\r\n\r\n" + LINE + b"\r\n", 1)
@example(LINE + b"A: b\r\n\r\n", 3)
def test_the_end_of_a_head_that_comes_in_parts(data, step):
    """Looking only from where the buffer is new, less three octets, finds what a look at the whole finds, or earlier."""
    buffer = bytearray()
    found = -1
    for at in range(0, len(data), step):
        start = max(0, len(buffer) - 3)
        buffer += data[at : at + step]
        found = find_head_end(buffer, start)
        if found >= 0:
            break
    whole = find_head_end(data, 0)
    assert (found < 0) == (whole < 0)
    if found != whole:  # a bare LF was seen before the rest had come: refused either way
        assert not parsed(data[:whole])
        assert not parsed(bytes(buffer[:found]))


def test_a_request_head_written():
    """Fields stand in order and as given, and the version is ours."""
    written = request_head(b"GET", b"/a?b", [(b"Host", b"h"), (b"x-EMPTY", b""), (b"X", b"\xe9")])
    assert written == b"GET /a?b HTTP/1.1\r\nHost: h\r\nx-EMPTY: \r\nX: \xe9\r\n\r\n"
    assert request_head(b"GET", b"/", ()) == b"GET / HTTP/1.1\r\n\r\n"


def test_a_response_head_written():
    """An empty reason keeps its space (RFC 9112 §4)."""
    assert response_head(404, b"Not Found", ((b"A", b"b"),)) == b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n"
    assert response_head(299, b"", ()) == b"HTTP/1.1 299 \r\n\r\n"


@pytest.mark.parametrize("break_", [b"\r\n", b"\n", b"\r", b"\n\r"], ids=repr)
def test_a_line_break_inside_what_is_written(break_):
    """A head that would read as two is not written, wherever the break stands: a secret file may hold one."""
    bad = b"a" + break_ + b"b"
    for write in (
        lambda: request_head(bad, b"/", ()),
        lambda: request_head(b"GET", bad, ()),
        lambda: request_head(b"GET", b"/", ((bad, b"v"),)),
        lambda: request_head(b"GET", b"/", ((b"A", b"b"), (b"Authorization", bad))),
        lambda: response_head(200, bad, ()),
        lambda: response_head(200, b"OK", ((b"A", bad),)),
    ):
        with pytest.raises(GatewayError) as caught:
            write()
        assert (caught.value.error_type, caught.value.side) == (ErrorType.PROXY_INTERNAL_ERROR, Side.GATEWAY)
        assert "b" + break_.decode() not in str(caught.value)


NAMES = st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,12}", fullmatch=True)
VALUES = st.binary(max_size=30).filter(is_field_value).map(lambda value: value.strip(b" \t"))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)
TARGETS = st.from_regex(rb"[!-~]{1,30}", fullmatch=True)


@settings(deadline=None)
@given(NAMES, TARGETS, FIELDS)
def test_a_request_head_written_and_read(method, target, fields):
    """Reading undoes writing, byte for byte."""
    assert parse(request_head(method, target, fields)) == RequestHead(method, target, (1, 1), fields)


@settings(deadline=None)
@given(st.integers(100, 599), st.binary(max_size=20).filter(is_field_value), FIELDS)
def test_a_response_head_written_and_read(status, reason, fields):
    """Reading undoes writing, byte for byte."""
    assert parse_response_head(response_head(status, reason, fields), max_fields=8) == ResponseHead(
        (1, 1), status, reason, fields
    )


PARTS = st.lists(
    st.sampled_from(
        [b"GET", b" ", b"  ", b"\t", b"/", b"/a?b", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\n", b"\r", b"A: b", b"X-Y:",
         b":", b"\xe9", b"\x00", b"\x0b", b"\x7f", b"c", b" : ", b"\r\nA: b\r\n", b"\r\n d", b'"', b"(", b"\x85", b"\xa0"]
    ),
    max_size=6,
).map(b"".join)  # fmt: skip


def read_by_h11(data: bytes) -> tuple[bytes, bytes, bytes, tuple[tuple[bytes, bytes], ...]] | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    return event.method, event.target, event.http_version, tuple(event.headers.raw_items())


@settings(deadline=None, max_examples=1000)
@given(PARTS, PARTS)
@example(b"", b"A: b \r\n")
@example(b"", b"A: b\r\n c\r\n")
@example(b"", b"A: b\n")
def test_a_request_head_against_h11(before, lines):
    """h11 reads what we take as we do; what h11 takes beyond that, we refuse for a named reason."""
    data = (before or LINE) + b"Host: h\r\n" + lines + b"\r\n\r\n"
    assume(not data.startswith((b"\r\n", b"\n")) and b"HTTP/2.0" not in data)  # h11 takes neither for a request
    data = data[: find_head_end(data, 0)]
    theirs = read_by_h11(data)
    try:
        ours = parse(data)
    except Refusal:
        bare_lf = data.count(b"\n") != data.count(b"\r\n")
        folded = b"\r\n " in data or b"\r\n\t" in data
        control = any((octet < 0x20 and octet not in b"\t\r\n") or octet == 0x7F for octet in data)
        early_end = data.find(b"\r\n\r\n") != len(data) - 4
        assert theirs is None or bare_lf or folded or control or early_end
    else:
        version = b"%d.%d" % ours.version
        hosts = sum(name.lower() == b"host" for name, _ in ours.fields)
        assert theirs == (ours.method, ours.target, version, ours.fields) or hosts != 1


def test_the_methods_that_are_forwarded():
    """RFC 9110 without CONNECT and TRACE, PATCH, QUERY and WebDAV; a client may not choose the rest."""
    assert {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"QUERY", b"PROPFIND", b"ACL"} < METHODS
    assert not METHODS & {b"CONNECT", b"TRACE", b"TRACK", b"get", b"FOO", b"PRI", b""}
    assert all(map(is_token, METHODS))
    assert len(METHODS) == 24


def test_a_head_shown_in_a_log():
    """Fields and query may hold secrets; no `repr` shows them."""
    request = parse(b"GET /a?password=hunter2 HTTP/1.1\r\nAuthorization: Basic hunter2\r\n\r\n")
    response = parse_response_head(b"HTTP/1.1 200 hunter2\r\nSet-Cookie: hunter2\r\n\r\n", max_fields=9)
    assert "hunter2" not in repr(request) + str(request) + f"{response}" + repr(response)


@pytest.mark.parametrize(
    ("field", "remembered"),
    [
        (b"X-A: b", True),
        (b"Authorization: Bearer x", False),
        (b"cookie: session=x", False),
        (b"Proxy-Authorization: Basic x", False),
    ],
)
def test_a_section_with_credentials_is_not_remembered(field: bytes, remembered: bool):
    """Any other is, from its second time on; either way it reads the same."""
    octets = b"GET / HTTP/1.1\r\nHost: remembered\r\n" + field + b"\r\n\r\n"
    heads = [parse_request_head(octets, max_fields=10) for _ in range(3)]
    assert heads[0] == heads[1] == heads[2]
    assert remembered is (wire._remembered.find(octets[octets.index(b"\r\n") :]) is not None)


HOSTILE = {
    "one long value": lambda n: LINE + b"A: " + b"x" * n + b"\r\n\r\n",
    "spaces inside a value": lambda n: LINE + b"A: a" + b" " * n + b"b\r\n\r\n",
    "spaces after a value": lambda n: LINE + b"A: a" + b" " * n + b"\r\n\r\n",
    "spaces only": lambda n: LINE + b"A:" + b" " * n + b"\r\n\r\n",
    "words": lambda n: LINE + b"A: " + b"a " * (n // 2) + b"\x00\r\n\r\n",
    "a control at the end": lambda n: LINE + b"A: " + b"x" * n + b"\x00\r\n\r\n",
    "one long name": lambda n: LINE + b"A" * n + b"\r\n\r\n",
    "colons": lambda n: LINE + b":" * n + b"\r\n\r\n",
    "names without an end": lambda n: LINE + b"A:a" * (n // 3) + b"\r\r\n\r\n",
    "many lines": lambda n: LINE + b"A:\r\n" * (n // 4) + b"\r\n",
    "many malformed lines": lambda n: LINE + b"A\r\n" * (n // 3) + b"\r\n",
    "many lines, the last malformed": lambda n: LINE + b"A: b \r\n" * (n // 7) + b"A\r\n\r\n",
    "folds": lambda n: LINE + b"A: b\r\n " * (n // 7) + b"\r\n\r\n",
    "bare CR": lambda n: LINE + b"A: \r" * (n // 4) + b"\r\n\r\n",
    "a long method": lambda n: b"A" * n + b"\r\n\r\n",
    "a long target": lambda n: b"GET /" + b"a" * n + b"\r\n\r\n",
    "a long target with spaces": lambda n: b"GET " + b"/ " * (n // 2) + b"\r\n\r\n",
    "empty lines": lambda n: b"\r\n" * (n // 2) + LINE + b"\r\n",
    "versions": lambda n: b"GET / " + b"HTTP/1.1 " * (n // 9) + b"\r\n\r\n",
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_time_for_a_hostile_head(make):
    """It grows with the head's length, not with its square: 16 times the octets take far less than 256 times as long."""
    short, long = make(32 * KIB), make(512 * KIB)
    assert best_time(long) < 80 * max(best_time(short), 20e-6)


def best_time(data: bytes) -> float:
    def once() -> float:
        begin = time.thread_time()
        find_head_end(data, 0)
        for reader in (parse, lambda data: parse_response_head(STATUS + data, max_fields=1 << 20)):
            try:
                reader(data)
            except GatewayError:
                continue
        return time.thread_time() - begin

    return min(once() for _ in range(5))
