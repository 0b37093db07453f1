"""What may be said to a token endpoint, and when two registrations say the same."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError
from proxy.oauth.registration import AssertionSettings, ClientAuthMethod, HttpProxy, Registration, identity
from proxy.secret import FixedSecret, Secret, SecretFile
from proxy.tls import TlsSettings
from tests.oauth.registrations import SECRET, registration

SOURCES = {"private_key", "client_assertion"}
OTHER_INPUTS = {
    "token_endpoint": "https://as.example/token?tenant=1",
    "issuer": "https://as.example",
    "assertion": AssertionSettings(key_id="k-1"),
    "proxy": HttpProxy(url="http://proxy.example:3128"),
    "allow_plain_http": True,
    "client_id": "legacy-app-2",
    "client_secret": FixedSecret(Secret("another")),
    "method": ClientAuthMethod.CLIENT_SECRET_POST,
    "basic_form_encoding": False,
    "scope": "orders.read",
    "audience": "https://api.example",
    "resource": ("https://api.example",),
    "endpoint_params": (("tenant", "t1"),),
    "token_request_headers": (("X-Tenant", FixedSecret(Secret("t1"))),),
    "tls": TlsSettings(ca_file=Path("ca.pem")),
}


def test_registrations_alike_in_everything():
    """They have one key, though they are two values."""
    assert identity(registration()) == identity(registration())
    assert hash(identity(registration())) == hash(identity(registration()))


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_registrations_that_differ_in_one_input(name):
    """Each input alone makes another key."""
    members = {name: OTHER_INPUTS[name]} | ({"token_endpoint": None} if name == "issuer" else {})
    assert identity(registration()) != identity(replace(registration(), **members))


def test_every_input_has_its_test():
    """Only the timeout is no input of the request."""
    assert {member.name for member in fields(Registration)} - {"timeout_s"} - SOURCES == set(OTHER_INPUTS)
    assert identity(registration()) == identity(registration(timeout_s=1.0))


BY_KEY = ClientAuthMethod.PRIVATE_KEY_JWT


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("client_secret", ClientAuthMethod.CLIENT_SECRET_BASIC),
        ("private_key", BY_KEY),
        ("client_assertion", BY_KEY),
    ],
)
def test_a_proof_from_a_file(tmp_path, name, method):
    """Counts by its file, so that a rotation does not split those who share it."""
    a, b, again = (registration(method=method, **{name: SecretFile(tmp_path / file)}) for file in "aba")

    assert identity(a) == identity(again)
    assert identity(a) != identity(b)
    assert identity(a) != identity(registration(method=method))


@pytest.mark.parametrize(
    "members",
    [
        {"client_secret": None},
        {"private_key": FixedSecret(Secret("k"))},
        {"method": BY_KEY, "private_key": None},
        {"method": BY_KEY, "client_secret": FixedSecret(Secret("s"))},
        {"method": BY_KEY, "client_assertion": FixedSecret(Secret("a")), "private_key": FixedSecret(Secret("k"))},
        {"method": ClientAuthMethod.TLS_CLIENT_AUTH, "tls": None},
        {"method": ClientAuthMethod.TLS_CLIENT_AUTH, "client_secret": FixedSecret(Secret("s"))},
        {"method": ClientAuthMethod.SELF_SIGNED_TLS_CLIENT_AUTH, "tls": TlsSettings(ca_file=Path("ca.pem"))},
        {"method": BY_KEY, "assertion": AssertionSettings(lifetime_s=301)},
        {"method": BY_KEY, "assertion": AssertionSettings(audience="issuer")},
        {"issuer": "https://as.example"},
    ],
    ids=str,
)
def test_a_proof_that_does_not_go_with_the_method(members):
    """One method, with what it needs and nothing beside it (RFC 6749 §2.3)."""
    with pytest.raises(ConfigurationError):
        registration(**members)


@pytest.mark.parametrize(
    "issuer", ["", "as.example", "https://as.example?x", "https://as.example#x", "https://u:p@as.example"]
)
def test_what_is_no_issuer(issuer):
    """RFC 8414 §2: no query, no fragment."""
    with pytest.raises(ConfigurationError):
        registration(None, issuer=issuer)


def test_a_header_from_a_file(tmp_path):
    """As a secret from one: by its file."""
    a, b = (registration(token_request_headers=(("X-Key", SecretFile(tmp_path / name)),)) for name in "ab")
    again = registration(token_request_headers=(("X-Key", SecretFile(tmp_path / "a")),))

    assert identity(a) == identity(again)
    assert identity(a) != identity(b)
    assert identity(a) != identity(registration(token_request_headers=(("X-Key", "x"),)))


def test_what_a_registration_shows():
    """Neither itself nor its key shows the secret, or the values of extra headers."""
    shown = registration(token_request_headers=(("X-Subscription-Key", "sub-key"),))
    assert SECRET not in repr(shown) + str(shown) + repr(identity(shown))
    assert "sub-key" not in repr(shown) + repr(identity(shown))


@pytest.mark.parametrize(
    "members",
    [
        {"client_id": ""},
        {"scope": ""},
        {"scope": "a  b"},
        {"scope": " a"},
        {"scope": 'a"b'},
        {"scope": "a\\b"},
        {"scope": "é"},
        {"resource": ("/relative",)},
        {"resource": ("https://api.example/#part",)},
        {"resource": ("https://api.example/a b",)},
        {"resource": ("urn:",)},
        {"endpoint_params": (("grant_type", "password"),)},
        {"endpoint_params": (("client_secret", "x"),)},
        {"endpoint_params": (("tenant", "1"), ("tenant", "2"))},
        {"endpoint_params": (("", "1"),)},
        {"endpoint_params": (("scope", "b"),), "scope": "a"},
        {"token_request_headers": (("Authorization", "x"),)},
        {"token_request_headers": (("content-LENGTH", "1"),)},
        {"token_request_headers": (("X-A", "a\r\nX-B: b"),)},
        {"token_request_headers": (("X A", "a"),)},
    ],
    ids=str,
)
def test_what_no_token_request_can_carry(members):
    """It is refused when the registration is made."""
    with pytest.raises(ConfigurationError):
        registration(**members)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "as.example/token",
        "//as.example/token",
        "ftp://as.example/token",
        "https:///token",
        "https://as.example/token#x",
        "https://as.example/token#",
        "https://user:pw@as.example/token",
        "https://[::1/token",
        "https://as.example:port/token",
    ],
)
def test_what_is_no_token_endpoint(url):
    """It is refused, and user info is not repeated."""
    with pytest.raises(ConfigurationError) as refused:
        registration(url)
    assert "pw" not in str(refused.value)


def test_what_is_unusual_but_right():
    """An extra parameter may be one of ours that we do not send; a query is part of the endpoint."""
    registration("http://localhost:1/token?a=b", endpoint_params=(("audience", "x"), ("empty", "")))
    registration(scope="!#[]~ https://api.example/.default", resource=("urn:example:api", "https://api.example/x?y"))
