"""What is made of a token endpoint's reply: the odd ones above all."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import Side
from proxy.oauth.response import MAX_TOKEN_CHARACTERS, Outcome, TokenGrant, TokenRequestError, clock_skew, parse

NOW = 1_800_000_000.0
GOOD = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600}


def replied(body: bytes | dict[str, Any] | str, status: int = 200, /, **fields: str) -> TokenGrant:
    """Parses a reply; a dictionary is sent as JSON."""
    octets = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return parse(status, headers, octets, now_wall=NOW, hidden=["hush-hush"])


def refused(body: bytes | dict[str, Any] | str, status: int = 200, /, **fields: str) -> TokenRequestError:
    """Parses a reply that holds no token."""
    with pytest.raises(TokenRequestError) as error:
        replied(body, status, **fields)
    assert error.value.side is Side.AUTHORIZATION_SERVER
    return error.value


def without(name: str) -> dict[str, Any]:
    """The good reply without one member."""
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_right_reply():
    """Token, type, life and scope are taken over; unknown members and a refresh token are ignored."""
    grant = replied({**GOOD, "scope": "a b", "refresh_token": "rt", "x": [1]}, Date="Fri, 15 Jan 2027 08:00:03 GMT")
    assert grant.access_token.reveal() == "at-1"
    assert (grant.token_type, grant.expires_in, grant.expires_in_warning, grant.scope) == (
        "Bearer",
        3600.0,
        None,
        "a b",
    )
    assert grant.clock_skew_s == 3.0
    assert "at-1" not in repr(grant)
    assert "rt" not in repr(grant).replace("Bearer", "")


@pytest.mark.parametrize(
    ("value", "seconds", "warned"),
    [
        (3600, 3600.0, False),
        ("3600", 3600.0, False),
        (" 3600 ", 3600.0, False),
        (3600.0, 3600.0, False),
        (3599.7, 3599.0, False),
        ("3599.7", 3599.0, False),
        (0, 0.0, False),
        (0.5, 0.0, False),
        (-1, -1.0, False),
        ("-5", -5.0, False),
        (10**12, 1e12, False),
        (2**63, float(2**63), False),
        (10**400, math.inf, False),
        (-(10**400), 0.0, False),
        (None, None, False),
        ("", None, True),
        ("soon", None, True),
        ("1e3", None, True),
        ("٣", None, True),
        (True, None, True),
        (False, None, True),
        ([3600], None, True),
        ({"s": 1}, None, True),
        (math.nan, None, True),
        (math.inf, None, True),
        (-math.inf, None, True),
    ],
    ids=repr,
)
def test_odd_lifetimes(value, seconds, warned):
    """A number is read however it is written; what is none means the default, with a warning; nothing is for ever."""
    grant = replied({**GOOD, "expires_in": value})
    assert grant.expires_in == seconds
    assert (grant.expires_in_warning is not None) == warned


def test_a_reply_without_lifetime():
    """It is told as unknown, without a warning: RFC 6749 only recommends it."""
    grant = replied(without("expires_in"))
    assert (grant.expires_in, grant.expires_in_warning) == (None, None)


@pytest.mark.parametrize("value", ["bearer", "BEARER", "Bearer", None, ""])
def test_token_types_that_mean_bearer(value):
    """Compared without regard to case; the field always says `Bearer`. Left out, it says nothing against it."""
    assert replied({**GOOD, "token_type": value}).token_type == "Bearer"
    assert replied(without("token_type")).token_type == "Bearer"


@pytest.mark.parametrize("value", ["mac", "DPoP", "N_A", "bearer2", 7, ["Bearer"], {"a": 1}, True])
def test_token_types_that_must_not_be_used(value):
    """RFC 6749 §7.1: a token of an unknown type is no token."""
    assert refused({**GOOD, "token_type": value}).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "token",
    [
        "at\r\nX-Evil: 1", "at\n", "a t", "at\x00", "at\x7f", "ät", "at,b", 'a"t', "a=b", "=", "", " at", "at ",
        None, 5, True, ["at"], {"a": "t"}, "\ud800", "a" * (MAX_TOKEN_CHARACTERS + 1),
    ],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
def test_tokens_that_are_no_b64token(token):
    """None of them gets into a header, nor into the error's texts."""
    error = refused({**GOOD, "access_token": token})
    assert error.outcome is Outcome.MALFORMED
    assert "X-Evil" not in error.explained() + repr(error)


@pytest.mark.parametrize("token", ["a", "a=", "aA0-._~+/==", "a" * MAX_TOKEN_CHARACTERS])
def test_tokens_that_are_b64tokens(token):
    """RFC 6750 §2.1, up to a bound."""
    assert replied({**GOOD, "access_token": token}).access_token.reveal() == token


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'[{"access_token": "at-1"}]',
        b'"at-1"',
        b"17",
        b'{"access_token": "at-1"',
        b'{"access_token": "at',
        b"<!DOCTYPE html><title>Sign in</title>",
        b"access_token=at-1&token_type=bearer",
        b"{}",
        b"\xff\xfe\x00",
        b"\x1f\x8b\x08\x00",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"access_token": "at-1", "expires_in": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body)[:32],
)
def test_a_success_that_is_none(body):
    """A 200 without a JSON object that holds a token is a failure, of the kind that passes."""
    error = refused(body)
    assert error.outcome is Outcome.MALFORMED
    assert not error.outcome.configuration_fault


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "application/json;charset=latin-1", ""])
def test_odd_content_types(content_type):
    """The body decides."""
    assert replied(GOOD, Content_Type=content_type).expires_in == 3600


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_odd_encodings(encoding):
    """A byte order mark, wide characters and Latin-1 are read."""
    text = json.dumps({**GOOD, "note": "é"}, ensure_ascii=False)
    assert replied(text.encode(encoding)).access_token.reveal() == "at-1"


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity"])
def test_a_compressed_reply(coding):
    """It was not asked for and is not unpacked: no bomb goes off."""
    assert refused(GOOD, Content_Encoding=coding).outcome is Outcome.MALFORMED
    assert replied(GOOD, Content_Encoding="identity")


@pytest.mark.parametrize(
    ("status", "code", "outcome", "fault"),
    [
        (400, "invalid_client", Outcome.INVALID_CLIENT, True),
        (401, "invalid_client", Outcome.INVALID_CLIENT, True),
        (401, "unauthorized_client", Outcome.INVALID_CLIENT, True),
        (401, "Unauthorized", Outcome.INVALID_CLIENT, True),
        (400, "invalid_scope", Outcome.INVALID_SCOPE, True),
        (400, "unauthorized_client", Outcome.OAUTH_ERROR, True),
        (400, "unsupported_grant_type", Outcome.OAUTH_ERROR, True),
        (400, "invalid_target", Outcome.OAUTH_ERROR, True),
        (403, "access_denied", Outcome.OAUTH_ERROR, True),
        (200, "invalid_client", Outcome.INVALID_CLIENT, True),
        (200, "anything_else", Outcome.OAUTH_ERROR, True),
        (400, "temporarily_unavailable", Outcome.SERVER_ERROR, False),
        (400, "server_error", Outcome.SERVER_ERROR, False),
        (503, "invalid_client", Outcome.SERVER_ERROR, False),
        (429, "slow_down", Outcome.RATE_LIMITED, False),
    ],
)
def test_oauth_errors(status, code, outcome, fault):
    """The code decides, below what the status says for certain."""
    error = refused({"error": code, "error_description": "words"}, status)
    assert (error.outcome, error.error_code, error.description) == (outcome, code, "words")
    assert error.outcome.configuration_fault == fault
    assert error.status == status


@pytest.mark.parametrize(
    ("status", "body", "outcome", "hint"),
    [
        (204, b"", Outcome.MALFORMED, None),
        (301, b"", Outcome.MALFORMED, "redirects are never followed"),
        (302, b"", Outcome.MALFORMED, "redirects are never followed"),
        (307, b"", Outcome.MALFORMED, "redirects are never followed"),
        (400, b"", Outcome.MALFORMED, None),
        (400, b"<html>", Outcome.MALFORMED, "a web page"),
        (401, b"", Outcome.INVALID_CLIENT, None),
        (403, b"", Outcome.OAUTH_ERROR, "wrong secret or scope"),
        (404, b"<html>", Outcome.MALFORMED, "check token_endpoint's path"),
        (404, b'{"error": "not_found"}', Outcome.MALFORMED, "check token_endpoint's path"),
        (405, b"", Outcome.MALFORMED, "check token_endpoint's path"),
        (408, b"", Outcome.TIMEOUT, None),
        (429, b"", Outcome.RATE_LIMITED, None),
        (500, b"<html>", Outcome.SERVER_ERROR, None),
        (503, b"", Outcome.SERVER_ERROR, None),
        (200, b"<html>", Outcome.MALFORMED, "a web page"),
    ],
)
def test_replies_without_an_oauth_error(status, body, outcome, hint):
    """Each has an outcome, and a hint where one can be given."""
    error = refused(body, status)
    assert error.outcome is outcome
    assert hint in error.hint if hint else error.hint is None


@pytest.mark.parametrize("error", [5, ["invalid_client"], {"code": 1}, "has space", "é", "x" * 65, "a\r\nb"], ids=repr)
def test_an_error_that_is_no_code(error):
    """It is not told, and no token beside it is used."""
    told = refused({**GOOD, "error": error})
    assert told.outcome is Outcome.MALFORMED
    assert told.error_code is None


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_error_without_a_value(nothing):
    """RFC 6749 §3.2 treats it as left out."""
    assert replied({**GOOD, "error": nothing}).expires_in == 3600


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("plain", "plain"),
        ("two\r\nlines\tand \x1b[31mred", "two lines and [31mred"),
        ("\u202eright to left", "right to left"),
        ("x" * 300, "x" * 199 + "…"),
        ("the secret hush-hush is wrong", "(withheld: it quotes a secret)"),
        ("token at-9 was revoked", "(withheld: it quotes a secret)"),
        ("\ud800", None),
        ("", None),
        (["list"], None),
        (5, None),
    ],
    ids=repr,
)
def test_descriptions(description, told):
    """They are cut, cleaned, and withheld when they quote what must not be seen."""
    error = refused({"error": "invalid_client", "error_description": description, "access_token": "at-9"}, 401)
    assert error.description == told


def test_a_code_that_quotes_the_secret():
    """It is no code then."""
    error = refused({"error": "hush-hush"}, 400)
    assert error.error_code is None
    assert "hush" not in error.explained() + repr(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 11, None),
        ("Fri, 99 Foo 2027 08:00:00 GMT", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 400])
def test_retry_after(status, value, seconds):
    """Seconds and HTTP-dates are read; what is neither is as if it were not there."""
    assert refused(b"", status, Retry_After=value).retry_after_s == seconds


@pytest.mark.parametrize(
    ("scope", "told"), [("a b", "a b"), (["a", "b"], "a b"), (None, None), ("", None), (5, None), (["a", 5], None)]
)
def test_scopes(scope, told):
    """A list is read as the text it should have been; what is no text is as if nothing was told."""
    assert replied({**GOOD, "scope": scope}).scope == told


def test_a_scope_that_quotes_the_token():
    """It is not told."""
    assert "at-1" not in str(replied({**GOOD, "scope": "x at-1"}).scope)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "access_token": JSON | st.just("at-1"),
        "token_type": JSON | st.just("Bearer"),
        "expires_in": JSON,
        "scope": JSON,
        "error": JSON,
        "error_description": JSON,
    },
)


@given(
    status=st.integers(100, 599),
    body=st.binary(max_size=64) | MEMBERS.map(lambda members: json.dumps(members).encode()),
    headers=st.dictionaries(
        st.sampled_from(["Date", "Retry-After", "Content-Encoding", "Content-Type"]), st.text(max_size=40)
    ),
)
@example(200, b'{"access_token": "at-1"}', {"Date": "Mon, 01 Jan 99999 00:00:00 GMT"})
@example(200, b'{"access_token": "at-1"}', {"Date": "Mon, 01 Jan 0000 00:00:00 -9999"})
def test_any_reply(status, body, headers):
    """It is a grant whose token fits into a header, or a TokenRequestError; never anything else."""
    try:
        result: TokenGrant | TokenRequestError = parse(status, headers, body, now_wall=NOW)
    except TokenRequestError as error:
        result = error

    if isinstance(result, TokenRequestError):
        assert result.explained().isprintable()
        assert result.outcome is not Outcome.OK
    else:
        assert result.access_token.reveal().isascii()
        assert not set(result.access_token.reveal()) & set("\r\n \x00")


@pytest.mark.parametrize(
    ("ahead_s", "round_trip_s", "skew_s"),
    [
        (0, 0, 0),
        (-1, 0, 0),
        (-1.5, 0, -1.5),
        (-4, 10, 0),
        (-6, 10, 0),
        (5, 10, 10),
        (-70, 10, -65),
        (3600, 0.1, 3600.05),
    ],
)
def test_the_skew_of_a_clock(ahead_s, round_trip_s, skew_s):
    """The Date is compared with the middle of the round trip; what the round trip explains is no skew."""
    assert clock_skew(1000.0 + ahead_s, 1000.0, round_trip_s) == pytest.approx(skew_s)


@pytest.mark.parametrize(
    ("date", "retry_after", "seconds"),
    [
        ("Fri, 15 Jan 2027 09:00:00 GMT", "Fri, 15 Jan 2027 09:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 07:00:00 GMT", "Fri, 15 Jan 2027 07:02:00 GMT", 120),
        ("", "Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("nonsense", "Fri, 15 Jan 2027 08:02:00 GMT", 120),
        ("Fri, 15 Jan 2027 09:00:00 GMT", "Fri, 15 Jan 2027 08:00:00 GMT", 0),
        ("Fri, 15 Jan 2027 09:00:00 GMT", "7", 7),
        ("", "-7", None),
        ("", "7.5", None),
        ("", "soon", None),
    ],
    ids=[
        "P20-server ahead", "P20-server behind", "P20-without Date", "P20-odd Date", "P20-over already", "P20-seconds",
        "P20-negative", "P20-fraction", "P20-a word",
    ],
)  # fmt: skip
def test_a_retry_after(date, retry_after, seconds):
    """Seconds, or a date by the clock of the server that wrote it."""
    with pytest.raises(TokenRequestError) as caught:
        parse(503, {"Date": date, "Retry-After": retry_after}, b"", now_wall=1_800_000_000.0)
    assert caught.value.retry_after_s == seconds


def test_a_scope_that_repeats_a_secret():
    """It is taken as one that was not told."""
    body = b'{"access_token": "at-1", "scope": "orders.read-1"}'
    assert parse(200, {}, body, now_wall=0.0, hidden=["orders.read-1"]).scope is None
