"""Request targets, ambiguous paths, joining paths, and Host."""

from __future__ import annotations

import re
import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import Problem, Refusal
from proxy.http1.target import Form, Host, RequestTarget, ambiguity, join, loosely_read, parse_host, parse_target


def refused(call, *arguments) -> bool:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.problem is Problem.BAD_REQUEST


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/?", b"/", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"/a%2fb%2Fc", b"/a%2fb%2Fc", None),
        (b"/%7e;p=1/", b"/%7e;p=1/", None),
        (b"//a//b", b"//a//b", None),
        (b"/a[1]|'\"<>^`{}\\", b"/a[1]|'\"<>^`{}\\", None),
        (b"/a%zz?%", b"/a%zz", b"%"),
        (b"/http://h/", b"/http://h/", None),
        (b"/*", b"/*", None),
        (b"/a:b@c?u@h", b"/a:b@c", b"u@h"),
    ],
)
def test_origin_form(target, path, query):
    """Path and query are the bytes received; a lone `?` is an empty query, not none."""
    assert parse_target(target, b"GET") == RequestTarget(Form.ORIGIN, path, query, None)


@pytest.mark.parametrize(
    ("target", "path", "query", "authority"),
    [
        (b"http://h/a?b", b"/a", b"b", b"h"),
        (b"HTTPS://H.example:8443/", b"/", None, b"H.example:8443"),
        (b"http://h", b"/", None, b"h"),
        (b"http://h?q", b"/", b"q", b"h"),
        (b"http://[::1]:80//x", b"//x", None, b"[::1]:80"),
    ],
)
def test_absolute_form(target, path, query, authority):
    """The authority is handed out for Host's place; an empty path is `/` (RFC 9112 §3.2.2)."""
    assert parse_target(target, b"GET") == RequestTarget(Form.ABSOLUTE, path, query, authority)


def test_asterisk_form():
    """`*` is for OPTIONS; so is an absolute URI without path and query (RFC 9112 §3.2.4)."""
    assert parse_target(b"*", b"OPTIONS") == RequestTarget(Form.ASTERISK, b"*", None, None)
    assert parse_target(b"http://h:80", b"OPTIONS") == RequestTarget(Form.ASTERISK, b"*", None, b"h:80")
    assert parse_target(b"http://h/", b"OPTIONS").form is Form.ABSOLUTE
    assert parse_target(b"http://h?", b"OPTIONS").form is Form.ABSOLUTE


@pytest.mark.parametrize(
    "target",
    [
        b"", b"*", b"**", b"a", b"a/b", b"?q", b"h:80", b"/a b", b"/a\tb", b"/a\x00", b"/a\x7f", b"/a\r", b"/a\n",
        b"/\xc3\xa9", b"/?\xff", b"/#f", b"/a?b#f", b"/a?#", b"http://h/#", b"ftp://h/", b"http:/h/", b"http:///a",
        b"http://u@h/", b"http://u:p@h/", b"http://h:x/", b"http://h:65536/", b"http://h:/", b"http://[::1/",
        b"http://h,i/", b"http://h\\i/", b"http://h/\xe9", b" /", b"/ ",
    ],
)  # fmt: skip
def test_a_target_that_is_none(target):
    """White space, controls, non-ASCII, fragments, user information, other schemes and forms are refused."""
    assert refused(parse_target, target, b"GET")


def test_authority_form():
    """It belongs to CONNECT, which is not served."""
    assert refused(parse_target, b"h:443", b"CONNECT")


@pytest.mark.parametrize("method", [b"GET", b"options", b"POST"])
def test_asterisk_with_another_method(method):
    """`*` with anything but OPTIONS is malformed."""
    assert refused(parse_target, b"*", method)


def test_every_octet_in_a_path():
    """Visible ASCII without `#` stands in a path or starts the query."""
    allowed = set(range(0x21, 0x7F)) - {ord("#")}
    for octet in range(256):
        if octet in allowed:
            assert parse_target(b"/" + bytes([octet]), b"GET").form is Form.ORIGIN
        else:
            assert refused(parse_target, b"/" + bytes([octet]), b"GET")


def test_a_target_shown_in_a_log():
    """A query may hold a secret and does not appear in `repr`."""
    assert "hunter2" not in repr(parse_target(b"/a?password=hunter2", b"GET"))


@pytest.mark.parametrize(
    "path",
    [
        b"/", b"/a/b", b"/a//b", b"/a//", b"/a%2Fb", b"/a%2f", b"/%2F", b"/.a", b"/a.", b"/...", b"/.well-known/x",
        b"/a..b", b"/a/..b/", b"/%2ea", b"/a%2e", b"/%2e%2e%2e", b"/;a", b"/a;..", b"/a;/b", b"/%20", b"/%c3%a9",
        b"/%25", b"/%2525", b"/%252", b"/%25ff", b"/%80", b"/%9f", b"/a%2F.b", b"/%3f%23", b"*",
    ],
)  # fmt: skip
def test_a_path_that_all_read_alike(path):
    """It passes; `%2F` alone and `//` within are no ambiguity."""
    assert ambiguity(path) is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"/.", "dot"), (b"/..", "dot"), (b"/a/./b", "dot"), (b"/a/../b", "dot"), (b"/a/..", "dot"),
        (b"/%2e/", "dot"), (b"/%2E%2e/a", "dot"), (b"/.%2e", "dot"), (b"/%2e.", "dot"),
        (b"/a/..;/b", "dot"), (b"/.;x=1", "dot"), (b"/..%3b/", "dot"), (b"/%2e%3Bx", "dot"),
        (b"/a%2f..", "dot"), (b"/a%2F..%2fb", "dot"), (b"/..%2F", "dot"), (b"/a//../b", "dot"),
        (b"/a%5c..", "backslash"), (b"/a\\..\\b", "backslash"), (b"/..\\", "backslash"),
        (b"/a\\b", "backslash"), (b"/a%5Cb", "backslash"), (b"\\", "backslash"),
        (b"/%00", "control"), (b"/a%0d%0a", "control"), (b"/%1F", "control"), (b"/%7f", "control"), (b"/%09", "control"),
        (b"/%", "malformed"), (b"/%2", "malformed"), (b"/%zz", "malformed"), (b"/%%41", "malformed"),
        (b"/%u0041", "malformed"), (b"/%2x", "malformed"),
        (b"/%252e", "twice"), (b"/%252E%252e/", "twice"), (b"/%252f", "twice"), (b"/%252F", "twice"), (b"/%255C", "twice"),
        (b"/%252%65", "twice"), (b"/%25%32e", "twice"), (b"/%25%35%43", "twice"), (b"/%250a", "twice"), (b"/%257F", "twice"),
        (b"//", "leading"), (b"//a", "leading"), (b"///", "leading"),
    ],
)  # fmt: skip
def test_an_ambiguous_path(path, reason):
    """Whatever two readers could resolve in two ways is named."""
    assert reason in (ambiguity(path) or "")


def ambiguous_by_decoding(path: bytes) -> bool:
    """The rule, read off another way: decode once, take every separator for `/`, look at each segment."""
    if path.startswith(b"//") or re.search(rb"%(?![0-9a-fA-F][0-9a-fA-F])", path):
        return True
    decoded = unquote_to_bytes(path)
    if b"\\" in decoded or any(octet < 0x20 or octet == 0x7F for octet in decoded):
        return True
    twice = unquote_to_bytes(decoded)
    if any(twice.count(octet) > decoded.count(octet) for octet in (*b"./\\\x7f", *range(0x20))):
        return True
    return any(segment.partition(b";")[0] in (b".", b"..") for segment in decoded.split(b"/")[1:])


PATHS = st.lists(
    st.sampled_from(b"/ / . .. a ; %2e %2E %2f %2F %5c %25 %3b %00 %7F %20 %e9 % 2e 5c 2f \\".split()), max_size=12
).map(lambda parts: b"/" + b"".join(parts))


@settings(deadline=None, max_examples=500)
@given(PATHS)
@example(b"/%2f.")
@example(b"/.%252f")
def test_ambiguity_against_decoding_the_path(path):
    """The patterns over the raw bytes say the same as decoding and splitting."""
    assert (ambiguity(path) is not None) == ambiguous_by_decoding(path)


@pytest.mark.parametrize(
    ("path", "loose"),
    [
        (b"/%61dmin", b"/admin"), (b"/admin;x", b"/admin"), (b"/admin;x=1;y/b;z", b"/admin/b"), (b"/admin%3Bx", b"/admin"),
        (b"/a%2fb", b"/a/b"), (b"/%2Fa", b"/a"), (b"/a///b//", b"/a/b/"), (b"/a/%2f/b", b"/a/b"), (b"/;/a", b"/a"),
        (b"/a%3fb/c", b"/a"), (b"/a%23b", b"/a"), (b"/a%40%7e", b"/a@~"), (b"/%2561", b"/a"), (b"/%25%36%31", b"/a"),
        (b"/%c3%a9%20", b"/%C3%A9%20"), (b"/100%25", b"/100%"),
    ],
)  # fmt: skip
def test_a_path_as_a_lenient_reader_takes_it(path, loose):
    """Decoded, without parameters, with single slashes."""
    assert loosely_read(path) == loose


@pytest.mark.parametrize("path", [b"/", b"/a/b", b"/a.b/~c@d:e!$&'()*+,=/", b"/a[1]|"])
def test_a_path_that_a_lenient_reader_takes_alike(path):
    """The very same object comes back, so that the caller need not look for its route again."""
    assert loosely_read(path) is path


@pytest.mark.parametrize(
    ("base", "path", "prefix", "expected"),
    [
        (b"/v1", b"/orders", b"/orders", b"/v1"),
        (b"/v1", b"/orders/", b"/orders", b"/v1/"),
        (b"/v1", b"/orders/7", b"/orders", b"/v1/7"),
        (b"/v1", b"/orders//7", b"/orders", b"/v1//7"),
        (b"/v1/", b"/orders", b"/orders", b"/v1/"),
        (b"/v1/", b"/orders/7", b"/orders", b"/v1/7"),
        (b"", b"/orders", b"/orders", b"/"),
        (b"", b"/orders/", b"/orders", b"/"),
        (b"", b"/orders/7", b"/orders", b"/7"),
        (b"/", b"/orders", b"/orders", b"/"),
        (b"/", b"/orders/7", b"/orders", b"/7"),
        (b"/v1", b"/orders/7", b"/orders/", b"/v1/7"),
        (b"/v1", b"/orders/", b"/orders/", b"/v1/"),
        (b"/v1", b"/", b"/", b"/v1/"),
        (b"/v1", b"/a%2Fb", b"/", b"/v1/a%2Fb"),
        (b"/v%201", b"/o/%7e", b"/o", b"/v%201/%7e"),
    ],
)
def test_a_prefix_that_is_stripped(base, path, prefix, expected):
    """The upstream's base path takes the prefix's place; nothing else of the path changes."""
    assert join(base=base, path=path, prefix=prefix, strip=True) == expected


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        (b"", b"/orders/7", b"/orders/7"),
        (b"/", b"/orders", b"/orders"),
        (b"/v1", b"/orders", b"/v1/orders"),
        (b"/v1/", b"/orders", b"/v1/orders"),
        (b"/v1", b"/", b"/v1/"),
        (b"/v1", b"/orders//", b"/v1/orders//"),
    ],
)
def test_a_prefix_that_is_kept(base, path, expected):
    """The path follows the upstream's base path, unchanged."""
    assert join(base=base, path=path, prefix=b"/orders", strip=False) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"h", Host(b"h", None)),
        (b"API.Example:8080", Host(b"api.example", 8080)),
        (b"127.0.0.1:0", Host(b"127.0.0.1", 0)),
        (b"h:65535", Host(b"h", 65535)),
        (b"h:00080", Host(b"h", 80)),
        (b"h.", Host(b"h.", None)),
        (b"a_b-c~d!$&'()*+;=", Host(b"a_b-c~d!$&'()*+;=", None)),
        (b"%C3%A9.example", Host(b"%c3%a9.example", None)),
        (b"[::1]", Host(b"[::1]", None)),
        (b"[2001:DB8::1]:443", Host(b"[2001:db8::1]", 443)),
        (b"[::ffff:127.0.0.1]", Host(b"[::ffff:127.0.0.1]", None)),
        (b"[v1.a:b]:1", Host(b"[v1.a:b]", 1)),
    ],
)
def test_a_host(value, expected):
    """Name, IPv4 and bracketed IP literal, port or none; the name is lower-case and without port."""
    assert parse_host(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"", b":80", b"h:", b"h:-1", b"h:+1", b"h:65536", b"h:99999", b"h:000080", b"h:8 0", b"a:b", b"a:80:80", b"::1",
        b"a, b", b"a,b", b"a b", b" a", b"a/b?c#d", b"a?", b"a#", b"u@b", b"a\\b", b"a\x00", b"a\n", b"\xc3\xa9", b"%",
        b"%4", b"%zz", b"[", b"[]", b"[::1", b"::1]", b"[::1]x", b"[::1]80", b"[1]", b"[:::1]", b"[::g]", b"[1.2.3.4]",
        b"[fe80::1%25eth0]", b"[v.a]", b"[v1.]", b"<h>", b"h|",
    ],
)  # fmt: skip
def test_a_host_that_is_none(value):
    """Empty, a list, user information, a bad port, anything outside RFC 3986 §3.2.2: refused."""
    assert refused(parse_host, value)


@pytest.mark.parametrize("octets", [255, 256, 40_000], ids="{} octets".format)
def test_a_long_host(octets):
    """Length alone refuses no host, and no host is remembered that could name nothing."""
    assert parse_host(b"a" * octets) == Host(b"a" * octets, None)
    assert refused(parse_host, b"a" * octets + b"/")


@pytest.mark.parametrize(
    "part", [b"/", b"%2f", b"%25", b".%2e", b"/..", b"a?", b"//..;", b"%2", b"[", b"a.", b"%41", b";", b"%3f"]
)
def test_the_time_for_a_hostile_target(part):
    """It grows with the target's length, not with its square: 16 times the octets take far less than 256 times as long."""
    short, long = part * 2000, part * 32_000
    assert best_time(long) < 80 * max(best_time(short), 20e-6)


def best_time(text: bytes) -> float:
    def once() -> float:
        begin = time.thread_time()
        ambiguity(b"/x" + text)
        loosely_read(b"/x" + text)
        for prefix in (b"/", b"http://", b"http://h/", b"http://["):
            try:
                parse_target(prefix + text, b"GET")
            except Refusal:
                continue
        return time.thread_time() - begin

    return min(once() for _ in range(5))
