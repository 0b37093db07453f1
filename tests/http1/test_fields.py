"""Field lines: grammar, lists, which fields end at this hop, and challenges."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http1.fields import (
    CONNECTION_SPECIFIC,
    Challenge,
    binds_connection,
    challenges,
    connection_options,
    end_to_end,
    is_field_value,
    is_token,
    known,
    list_members,
    twin,
    values,
)

TOKEN_OCTETS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_every_octet_as_a_token():
    """A token is made of tchar and nothing else (RFC 9110 §5.6.2)."""
    assert {octet for octet in range(256) if is_token(bytes([octet]))} == TOKEN_OCTETS


def test_every_octet_in_a_value():
    """A value holds HTAB, SP, VCHAR and obs-text; no control, no DEL (RFC 9110 §5.5)."""
    allowed = {0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}
    assert {octet for octet in range(256) if is_field_value(bytes([octet]))} == allowed


@pytest.mark.parametrize("text", [b"", b"X Y", b"X\n", b"X:", b"\xc3\xa9"])
def test_a_text_that_is_no_token(text):
    """The whole text must be a token, not a part of it."""
    assert not is_token(text)


def test_an_empty_value():
    """A value may be empty."""
    assert is_field_value(b"")


def test_a_value_with_a_final_line_feed():
    """`$` semantics do not let a final LF pass."""
    assert not is_field_value(b"x\n")


def test_values_of_a_name_in_several_spellings():
    """All lines of a name count, in order, however the name is spelt; other names of the same length do not."""
    fields = ((b"Via", b"1.1 a"), (b"Vib", b"no"), (b"VIA", b"1.1 b"), (b"via", b""))
    assert values(fields, b"via") == [b"1.1 a", b"1.1 b", b""]


def test_a_list_over_several_lines():
    """Members are lower-case and trimmed; empty ones do not count (RFC 9110 §5.6.1)."""
    fields = ((b"Connection", b"Close ,, \tX-A"), (b"X", b"n"), (b"connection", b""), (b"CONNECTION", b"te,"))
    assert list_members(values(fields, b"connection")) == [b"close", b"x-a", b"te"]
    assert connection_options(known(fields)) == {b"close", b"x-a", b"te"}


def test_a_list_without_any_line():
    """No line, no members."""
    assert list_members(()) == []
    assert connection_options({}) == frozenset()


@pytest.mark.parametrize("name", sorted(CONNECTION_SPECIFIC))
def test_a_connection_specific_field(name):
    """It ends at this hop, whatever its spelling (RFC 9110 §7.6.1)."""
    assert end_to_end(((name.title(), b"x"), (b"A", b"b"))) == [(b"A", b"b")]


def test_a_field_that_connection_lists():
    """It ends at this hop too, in any spelling, from any Connection line; all else keeps its order and bytes."""
    fields = (
        (b"Set-Cookie", b"a=1"),
        (b"X-Hop", b"1"),
        (b"Connection", b"x-HOP"),
        (b"eTAG", b'"\xe9"'),
        (b"Set-Cookie", b"b=2"),
        (b"connection", b"close, Authorization"),
        (b"AUTHORIZATION", b"Basic eA=="),
    )
    assert end_to_end(fields) == [(b"Set-Cookie", b"a=1"), (b"eTAG", b'"\xe9"'), (b"Set-Cookie", b"b=2")]


def test_the_twin_of_a_name():
    """`_` reads as `-`."""
    assert twin(b"x_forwarded-for_") == b"x-forwarded-for-"


def asked(*lines: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found = challenges(tuple((b"WWW-Authenticate", line) for line in lines))
    return [(challenge.scheme, challenge.params) for challenge in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", []),
        (b" , ,", []),
        (b"Bearer", [(b"bearer", {})]),
        (b"BEARER REALM=x", [(b"bearer", {b"realm": b"x"})]),
        (b'Bearer realm = "x" , error\t=\tinvalid_token', [(b"bearer", {b"realm": b"x", b"error": b"invalid_token"})]),
        (b"Basic realm=a, Bearer error=e, Digest n=1", [
            (b"basic", {b"realm": b"a"}), (b"bearer", {b"error": b"e"}), (b"digest", {b"n": b"1"})]),
        (b"Negotiate, NTLM, Bearer", [(b"negotiate", {}), (b"ntlm", {}), (b"bearer", {})]),
        (b"Negotiate YII=, Bearer a=b", [(b"negotiate", {}), (b"bearer", {b"a": b"b"})]),
        (b"Negotiate a/b+c~d.e_f-0== , Bearer", [(b"negotiate", {}), (b"bearer", {})]),
        (b'Basic realm="a, Bearer error=\\"invalid_token\\""', [(b"basic", {b"realm": b'a, Bearer error="invalid_token"'})]),
        (b'Bearer realm="\\\\", error=x', [(b"bearer", {b"realm": b"\\", b"error": b"x"})]),
        (b'Bearer realm="", error="\xe9"', [(b"bearer", {b"realm": b"", b"error": b"\xe9"})]),
        (b', Bearer ,, error="x"', [(b"bearer", {b"error": b"x"})]),
        (b"Bearer error=a, error=b", [(b"bearer", {b"error": b"a"})]),
        (b'Bearer realm=x error="insufficient_scope"', [(b"bearer", {b"realm": b"x", b"error": b"insufficient_scope"})]),
        (b"Bearer error=bad token, scope=s", [(b"bearer", {b"error": b"bad", b"scope": b"s"})]),
        (b'Bearer realm="never closed, error=x', [(b"bearer", {})]),
        (b'Bearer realm="a\\', [(b"bearer", {})]),
        (b'error="x", Bearer', [(b"bearer", {})]),
        (b'"a, b", Bearer', [(b"bearer", {})]),
        (b"=, ;, Bearer;x, Basic", [(b"basic", {})]),
    ],
    ids=lambda case: repr(case)[:60] if isinstance(case, bytes) else "",
)  # fmt: skip
def test_a_challenge_line(line, expected):
    """Challenges and parameters share the comma; quoted commas and token68 mislead no one; faults stay local."""
    assert asked(line) == expected


def test_challenges_in_several_lines():
    """Each line is a list of its own: a parameter does not join the challenge of the line before."""
    assert asked(b"Basic realm=a", b"error=x", b"Bearer error=y") == [
        (b"basic", {b"realm": b"a"}),
        (b"bearer", {b"error": b"y"}),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"NTLM TlRM", True), (b"negotiate\tYII", True), (b"Negotiate", True), (b"Basic NTLM", False), (b"", False)],
)
def test_credentials_of_a_connection(value: bytes, expected: bool):
    """By their scheme, in any case."""
    assert expected is binds_connection(known([(b"AUTHORIZATION", value)]))
    assert not binds_connection(known([(b"X-Authorization", value)]))


def test_other_fields_hold_no_challenges():
    """Only WWW-Authenticate is read, in any spelling."""
    fields = ((b"Proxy-Authenticate", b"Basic"), (b"www-AUTHENTICATE", b"Bearer"))
    assert challenges(fields) == [Challenge(b"bearer")]


NAMES = st.from_regex(rb"[A-Za-z][A-Za-z0-9\-]{0,8}", fullmatch=True)
QUOTED = st.binary(max_size=12).filter(is_field_value)
WRITTEN = st.lists(
    st.tuples(NAMES, st.dictionaries(NAMES.map(bytes.lower), QUOTED, max_size=4)), min_size=1, max_size=4
)


@settings(deadline=None)
@given(WRITTEN, st.sampled_from([b", ", b",", b" ,\t, "]))
def test_challenges_written_out_and_read_again(written, separator):
    """Any quoted value survives, whatever commas, quotes and backslashes it holds."""
    line = separator.join(
        scheme + b" " + separator.join(name + b'="' + _escaped(value) + b'"' for name, value in params.items())
        if params
        else scheme
        for scheme, params in written
    )
    assert asked(line) == [(scheme.lower(), params) for scheme, params in written]


def _escaped(value: bytes) -> bytes:
    return value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


@settings(deadline=None)
@given(st.text(alphabet='aB= ,"\\\t;/', max_size=60).map(str.encode))
def test_any_text_as_a_challenge_line(line):
    """Hostile text is read to its end without an error."""
    for scheme, _ in asked(line):
        assert is_token(scheme)


@pytest.mark.parametrize(
    "part", [b'a="', b"a=b ", b"a ", b",", b'"', b"\\", b'a="\\', b"a=, ", b"a = ", b"a==,", b" ", b'a="b" ']
)
def test_the_time_for_a_hostile_challenge_line(part):
    """It grows with the line's length, not with its square: 16 times the octets take far less than 256 times as long."""
    short, long = b"Bearer " + part * 1000, b"Bearer " + part * 16_000
    assert best_time(long) < 80 * max(best_time(short), 20e-6)


def best_time(line: bytes) -> float:
    def once() -> float:
        begin = time.thread_time()
        asked(line)
        return time.thread_time() - begin

    return min(once() for _ in range(5))
