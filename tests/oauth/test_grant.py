"""The form of a client-credentials token request."""

from __future__ import annotations

from proxy.oauth.grant import client_credentials_form, form_encoded
from tests.oauth.registrations import registration


def test_a_registration_without_options():
    """Nothing is sent for what was not asked: no empty `scope`."""
    assert client_credentials_form(registration()) == [("grant_type", "client_credentials")]


def test_a_registration_with_all_options():
    """Each is one parameter, `resource` one for each value and in order; an extra one without a value is left out."""
    full = registration(
        scope="orders.read orders.write",
        audience="https://api.example",
        resource=("https://b.example", "https://a.example"),
        endpoint_params=(("tenant", "t1"), ("empty", "")),
    )
    assert client_credentials_form(full) == [
        ("grant_type", "client_credentials"),
        ("scope", "orders.read orders.write"),
        ("audience", "https://api.example"),
        ("resource", "https://b.example"),
        ("resource", "https://a.example"),
        ("tenant", "t1"),
    ]


def test_the_example_of_rfc_6749_appendix_b():
    """Space, percent, ampersand, plus, pound and euro signs become what the RFC says."""
    assert form_encoded([("x", " %&+£€")]) == b"x=+%25%26%2B%C2%A3%E2%82%AC"  # the RFC's characters
