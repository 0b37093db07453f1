"""The demonstration's access tokens: what is accepted, and why anything else is not."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.demo.tokens import RefusalReason, TokenAuthority, TokenRefused
from tests.demo.moving_clock import MovingClock


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
def authority(clock: MovingClock) -> TokenAuthority:
    authority = TokenAuthority(clock=clock, audience="urn:api")
    authority.issuer = "http://as.example"
    return authority


def issued(authority: TokenAuthority, lifetime_s: float = 10.0) -> str:
    return authority.issue(client_id="legacy-app", scope="a b", lifetime_s=lifetime_s).reveal()


def reason_of(authority: TokenAuthority, token: str, now_s: float) -> RefusalReason:
    with pytest.raises(TokenRefused) as caught:
        authority.verify(token, now_s=now_s)
    assert token not in str(caught.value)
    return caught.value.reason


def test_a_token_just_issued_is_accepted_with_its_claims(authority, clock):
    """What was asked for at the token endpoint is what the API reads."""
    claims = authority.verify(issued(authority, 2.5), now_s=clock.wall())

    assert (claims.issuer, claims.audience, claims.client_id, claims.scope) == (
        "http://as.example",
        "urn:api",
        "legacy-app",
        "a b",
    )
    assert claims.expires_at_s - claims.issued_at_s == 2.5
    assert claims.issued_at_s == clock.wall()


@pytest.mark.parametrize(("late_s", "accepted"), [(-0.001, True), (0.0, False), (0.001, False)])
def test_around_its_expiry(authority, clock, late_s, accepted):
    """A token is good until, and not at, the moment that exp names; milliseconds count."""
    token = issued(authority, 0.25)
    moment = clock.wall() + 0.25 + late_s

    if accepted:
        authority.verify(token, now_s=moment)
    else:
        assert reason_of(authority, token, moment) is RefusalReason.EXPIRED


def test_two_tokens_differ_in_everything_that_identifies_them(authority):
    """Even two of the same moment can be told apart."""
    assert issued(authority) != issued(authority)


@pytest.mark.parametrize("token", ["", "x", "a.b", "..", "a..c", ".b.c", "é.b.c", "a.b.\udce9"])
def test_what_is_no_token(authority, clock, token):
    """Three parts of ASCII, or it is not looked at."""
    with pytest.raises(TokenRefused) as caught:
        authority.verify(token, now_s=clock.wall())
    assert caught.value.reason is RefusalReason.MALFORMED


def test_a_changed_claim_breaks_the_signature(authority, clock):
    """Nobody can write themselves another scope."""
    header, payload, signature = issued(authority).split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["scope"] = "everything"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()

    assert reason_of(authority, f"{header}.{forged}.{signature}", clock.wall()) is RefusalReason.SIGNATURE


def test_the_algorithm_none(authority, clock):
    """An unsigned token is refused whatever its header claims."""
    _, payload, signature = issued(authority).split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()

    assert reason_of(authority, f"{header}.{payload}.{signature}", clock.wall()) is RefusalReason.SIGNATURE


def test_another_authority_has_another_key(authority, clock):
    """Each start makes a key of its own, so that no token outlives a restart of both servers."""
    other = TokenAuthority(clock=clock, audience="urn:api")
    other.issuer = authority.issuer

    assert reason_of(authority, issued(other), clock.wall()) is RefusalReason.SIGNATURE


def test_another_issuer_or_audience(authority, clock):
    """A token is for the API it names, from the server it names."""
    token = issued(authority)
    authority.audience = "urn:other"
    assert reason_of(authority, token, clock.wall()) is RefusalReason.AUDIENCE
    authority.issuer = "http://other.example"
    assert reason_of(authority, token, clock.wall()) is RefusalReason.ISSUER


def test_revoking_one_token(authority, clock):
    """The revoked one is refused at once, another is not; revoking again, or nonsense, changes nothing."""
    first, second = issued(authority), issued(authority)
    authority.revoke(first)
    authority.revoke(first)
    authority.revoke("nonsense")

    assert reason_of(authority, first, clock.wall()) is RefusalReason.REVOKED
    authority.verify(second, now_s=clock.wall())


def test_revoking_all_tokens(authority, clock):
    """Those before are refused, those after are not."""
    before = issued(authority)
    authority.revoke_all()

    assert reason_of(authority, before, clock.wall()) is RefusalReason.REVOKED
    authority.verify(issued(authority), now_s=clock.wall())


def test_expired_tokens_are_forgotten(authority, clock):
    """What is kept is bounded by the tokens alive, and an expired one is still called expired."""
    old = issued(authority, 1.0)
    clock.advance(1.0)
    issued(authority)

    assert len(authority._live) == 1
    assert reason_of(authority, old, clock.wall()) is RefusalReason.EXPIRED


def test_neither_token_nor_key_is_in_a_repr(authority):
    """What is printed by accident shows nothing."""
    secret = authority.issue(client_id="legacy-app", scope="a", lifetime_s=1)

    assert secret.reveal() not in repr(secret)
    assert repr(authority._signing_key) not in repr(authority)
