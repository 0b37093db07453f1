"""How a client shows who it is."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from urllib.parse import quote_plus, unquote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from proxy.oauth.client_auth import Attempt, authenticate, basic, refusal_hint
from proxy.oauth.registration import ClientAuthMethod
from proxy.secret import Secret
from tests.oauth.certificates import certificate_of
from tests.oauth.registrations import proof, registration

FORM = [("grant_type", "client_credentials")]
POST = ClientAuthMethod.CLIENT_SECRET_POST
ATTEMPT = Attempt(token_endpoint="https://as.example/token", now_wall=1_800_000_000.0, jti="j-1")


def decoded(value: str) -> str:
    """Returns what stands in Basic credentials."""
    scheme, _, text = value.partition(" ")
    assert scheme == "Basic"
    return b64decode(text, validate=True).decode()


def test_the_example_of_rfc_6749():
    """§2.3.1: the client s6BhdRkqt3 with its secret."""
    client = registration(client_id="s6BhdRkqt3")
    assert basic(client, Secret("7Fjfp0ZBr1KtDRbnfVdmIw")) == "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"


@pytest.mark.parametrize(
    ("plain", "encoded"),
    [
        ("a b", "a+b"),
        (":", "%3A"),
        ("%", "%25"),
        ("+", "%2B"),
        ("é", "%C3%A9"),
        ("&=/?#", "%26%3D%2F%3F%23"),
        ("a-._~Z9", "a-._~Z9"),
    ],
)
def test_special_characters_in_basic(plain, encoded):
    """Id and secret are form-urlencoded, each by itself, before they are joined."""
    client = registration(client_id=plain)
    assert decoded(basic(client, Secret(plain))) == f"{encoded}:{encoded}"


def test_a_server_that_does_not_decode():
    """With `basic_form_encoding` off, the texts go as they are, in UTF-8."""
    client = registration(client_id="a b", basic_form_encoding=False)
    assert decoded(basic(client, Secret("p%+é"))) == "a b:p%+é"


@given(st.text(min_size=1).filter(lambda t: t.isprintable()), st.text(min_size=1).filter(lambda t: t.isprintable()))
def test_any_id_and_secret(client_id, secret):
    """Whoever splits at the first colon and decodes each part has both again, colons in the id included."""
    shown = decoded(basic(registration(client_id=client_id), Secret(secret)))
    assert tuple(unquote_plus(part) for part in shown.split(":", 1)) == (client_id, secret)


def test_client_secret_basic():
    """The credentials stand in the header alone: one method per request."""
    request = authenticate(registration(), Secret("x"), FORM, ATTEMPT)
    assert request.form == FORM
    assert [name for name, _ in request.headers] == ["Authorization"]


def test_client_secret_post():
    """The credentials stand in the form alone."""
    request = authenticate(registration(method=POST), Secret("p w"), FORM, ATTEMPT)
    assert request.form == [*FORM, ("client_id", "legacy-app"), ("client_secret", "p w")]
    assert request.headers == []


def test_a_key_that_goes_by_its_certificate():
    """The assertion names the certificate beside the key in the PEM, or what the JWK says; otherwise none."""
    key = ec.generate_private_key(ec.SECP256R1())
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = certificate_of(key)
    octets = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    thumbprint = urlsafe_b64encode(sha256(octets).digest()).decode().rstrip("=")
    jwk = ECKey.import_key(plain).as_dict(private=True)
    for text, expected in (
        (plain.decode(), None),
        ((plain + certificate).decode(), thumbprint),
        (json.dumps(jwk), None),
        (json.dumps(jwk | {"x5t#S256": thumbprint}), thumbprint),
    ):
        client = registration(method=ClientAuthMethod.PRIVATE_KEY_JWT)
        request = authenticate(client, Secret(text), FORM, ATTEMPT)
        header = dict(request.form)["client_assertion"].split(".")[0]
        assert json.loads(urlsafe_b64decode(header + "==")).get("x5t#S256") == expected


@pytest.mark.parametrize("method", list(ClientAuthMethod))
def test_what_a_request_shows(method):
    """Its repr holds no secret in any shape."""
    secret = "p w+q, and as many octets more as HS256 needs"
    client = registration(method=method, secret=secret, token_request_headers=(("X-Key", "k-123"),))
    request = authenticate(client, proof(client), FORM, ATTEMPT)

    assert "k-123" in request.hidden
    if method.by_secret:
        assert {secret, quote_plus(secret)} <= set(request.hidden)
    for name, value in request.form:
        assert value in request.hidden or name not in {"client_secret", "client_assertion"}
    assert not any(text in repr(request) + str(request) for text in request.hidden)


@pytest.mark.parametrize(
    ("members", "secret", "named"),
    [
        ({}, "p+w", "set basic_form_encoding: false"),
        ({"client_id": "a:b"}, "pw", "set basic_form_encoding: false"),
        ({"basic_form_encoding": False}, "p+w", "basic_form_encoding is false"),
        ({}, "pw", "client_secret_post"),
        ({"method": POST}, "p+w", "client_secret_basic"),
    ],
    ids=["secret +", "id :", "encoding off", "plain", "post"],
)
def test_hints_after_invalid_client(members, secret, named):
    """The hint names the switch that may be wrong, and never the secret."""
    hint = refusal_hint(registration(**members), Secret(secret))
    assert named in hint
    assert secret not in hint
