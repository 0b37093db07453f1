"""What may be said to a token endpoint, and when two registrations say the same."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError
from proxy.oauth.registration import ClientAuthMethod, Registration, identity
from proxy.secret import FixedSecret, Secret, SecretFile
from proxy.tls import TlsSettings
from tests.oauth.registrations import SECRET, registration

OTHER_INPUTS = {
    "token_endpoint": "https://as.example/token?tenant=1",
    "client_id": "legacy-app-2",
    "client_secret": FixedSecret(Secret("another")),
    "method": ClientAuthMethod.CLIENT_SECRET_POST,
    "basic_form_encoding": False,
    "scope": "orders.read",
    "audience": "https://api.example",
    "resource": ("https://api.example",),
    "endpoint_params": (("tenant", "t1"),),
    "token_request_headers": (("X-Tenant", "t1"),),
    "tls": TlsSettings(ca_file=Path("ca.pem")),
}


def test_registrations_alike_in_everything():
    """They have one key, though they are two values."""
    assert identity(registration()) == identity(registration())
    assert hash(identity(registration())) == hash(identity(registration()))


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_registrations_that_differ_in_one_input(name):
    """Each input alone makes another key."""
    assert identity(registration()) != identity(replace(registration(), **{name: OTHER_INPUTS[name]}))


def test_every_input_has_its_test():
    """Only the timeout is no input of the request."""
    assert {member.name for member in fields(Registration)} - {"timeout_s"} == set(OTHER_INPUTS)
    assert identity(registration()) == identity(registration(timeout_s=1.0))


def test_a_secret_from_a_file(tmp_path):
    """Counts by its file, so that a rotation does not split those who share it."""
    a, b = (registration(client_secret=SecretFile(tmp_path / name)) for name in "ab")
    again = registration(client_secret=SecretFile(tmp_path / "a"))

    assert identity(a) == identity(again)
    assert identity(a) != identity(b)
    assert identity(a) != identity(registration())


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
