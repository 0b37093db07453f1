"""What proves the client: each method has its own keys, and what stands in a file is looked into before the gateway serves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.config.test_lint import warnings
from tests.config.written import MINIMAL, ROUTE, faults, loaded
from tests.oauth.certificates import certificate_of, self_signed
from tests.support.program import environment


def credential(lines: str, *, more: str = "token_endpoint: https://as.example/token\nclient_id: legacy-app") -> str:
    """Returns a configuration whose credential, from line 3 on, has these lines and then the usual ones."""
    text = "".join(f"    {line}\n" for line in [*lines.splitlines(), *more.splitlines()])
    return f"credentials:\n  orders:\n{text}{ROUTE}"


def pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


BY_KEY = "token_endpoint_auth_method: private_key_jwt\n"
BY_SECRET_JWT = "token_endpoint_auth_method: client_secret_jwt\n"
BY_CERTIFICATE = "token_endpoint_auth_method: tls_client_auth\n"
ORDERS = "credentials.orders"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (credential("", more="client_id: a\nclient_secret: b"), f"2:3: {ORDERS}: token_endpoint is missing, or issuer in its place"),
        (credential("issuer: https://as.example\nclient_secret: b"), f"3:13: {ORDERS}.issuer: excludes token_endpoint: give one of the two"),
        (credential("issuer: https://as.example?x\nclient_secret: b", more="client_id: a"), f"3:13: {ORDERS}.issuer: must have no query (?): it is compared with the metadata's issuer, character by character"),
        (credential("issuer: https://as.example#x\nclient_secret: b", more="client_id: a"), f"3:13: {ORDERS}.issuer: must have no fragment (#)"),
        (credential("issuer: http://as.example\nclient_secret: b", more="client_id: a"), f"3:13: {ORDERS}.issuer: would send the client secret over plain http; use https, or set allow_plain_http: true"),
        (credential(BY_KEY), f"2:3: {ORDERS}: one of private_key_file and client_assertion_file is needed"),
        (credential(BY_KEY + "private_key_file: a\nclient_secret: b"), f"5:20: {ORDERS}.client_secret: is not used by private_key_jwt: leave it out"),
        (credential(BY_KEY + "private_key_file: a\nclient_secret_file: b"), f"5:25: {ORDERS}.client_secret_file: is not used by private_key_jwt: leave it out"),
        (credential(BY_KEY + "private_key_file: a\nclient_assertion_file: b"), f"5:28: {ORDERS}.client_assertion_file: excludes private_key_file: give one of the two"),
        (credential(BY_KEY + "client_assertion_file: b\nkey_id: c"), f"5:13: {ORDERS}.key_id: is not used with client_assertion_file: the assertion is made elsewhere"),
        (credential(BY_KEY + "private_key_file: a\nsigning_alg: HS256"), f"5:18: {ORDERS}.signing_alg: expected one of: RS256, PS256, ES256, EdDSA, Ed25519, with this token_endpoint_auth_method"),
        (credential(BY_KEY + "private_key_file: a\nsigning_alg: none"), f"5:18: {ORDERS}.signing_alg: expected one of: RS256, PS256, ES256, EdDSA, Ed25519, HS256, HS384, HS512"),
        (credential(BY_KEY + "private_key_file: a\nassertion_lifetime: 301s"), f"5:25: {ORDERS}.assertion_lifetime: must be between 10s and 300s"),
        (credential(BY_KEY + "private_key_file: a\nassertion_audience: issuer"), f"5:25: {ORDERS}.assertion_audience: needs `issuer`; or give the text of the audience itself"),
        (credential(BY_SECRET_JWT + "client_secret: short"), f"4:20: {ORDERS}.client_secret: is too short for HS256, which needs 32 octets at least (RFC 7518, 3.2)"),
        (credential(BY_SECRET_JWT + f"client_secret: {'x' * 63}\nsigning_alg: HS512"), f"4:20: {ORDERS}.client_secret: is too short for HS512, which needs 64 octets at least (RFC 7518, 3.2)"),
        (credential(BY_SECRET_JWT), f"2:3: {ORDERS}: one of client_secret and client_secret_file is needed"),
        (credential("client_secret: a\nprivate_key_file: b"), f"4:23: {ORDERS}.private_key_file: needs token_endpoint_auth_method: private_key_jwt"),
        (credential("client_secret: a\nclient_assertion_file: b"), f"4:28: {ORDERS}.client_assertion_file: needs token_endpoint_auth_method: private_key_jwt"),
        (credential("client_secret: a\nkey_id: b"), f"4:13: {ORDERS}.key_id: is for client_secret_jwt and private_key_jwt"),
        (credential("client_secret: a\nsigning_alg: RS256"), f"4:18: {ORDERS}.signing_alg: is for client_secret_jwt and private_key_jwt"),
        (credential("client_secret: a\nassertion_audience: b"), f"4:25: {ORDERS}.assertion_audience: is for client_secret_jwt and private_key_jwt"),
        (credential(BY_CERTIFICATE), f"2:3: {ORDERS}: tls.cert_file and tls.key_file are needed: tls_client_auth shows a certificate"),
        (credential(BY_CERTIFICATE + "tls: {min_version: 1.3}"), f"4:5: {ORDERS}.tls: tls.cert_file and tls.key_file are needed: tls_client_auth shows a certificate"),
        (credential(BY_CERTIFICATE + "tls: {cert_file: a, key_file: b}", more="token_endpoint: http://127.0.0.1/token\nclient_id: a"), f"5:21: {ORDERS}.token_endpoint: must be https: tls_client_auth shows its certificate over TLS only"),
        (credential("token_endpoint_auth_method: none\nclient_secret: a"), f"3:33: {ORDERS}.token_endpoint_auth_method: expected one of: client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth"),
        (credential("client_secret: a\nproxy_url: socks5://proxy:1080"), f"4:16: {ORDERS}.proxy_url: expected http://host:port of an HTTP proxy, perhaps with user:password@ before the host"),
        (credential("client_secret: a\nproxy_url: http://u:c4nary@proxy"), f"4:16: {ORDERS}.proxy_url: expected http://host:port of an HTTP proxy, perhaps with user:password@ before the host"),
        (credential("client_secret: a\nproxy_url: http://u:c4nary@proxy:99999"), f"4:16: {ORDERS}.proxy_url: has a host or a port that is not one"),
        (credential("client_secret: a\naccess_token_file: b"), f"4:5: {ORDERS}.access_token_file: is not for this grant_type"),
        (credential("grant_type: static\naccess_token_file: a", more="client_id: b"), f"5:5: {ORDERS}.client_id: is not for this grant_type"),
        (credential("grant_type: static", more="required: false"), f"2:3: {ORDERS}.access_token_file: is missing"),
        (credential("grant_type: static\naccess_token_flie: a", more="required: false"), f"2:3: {ORDERS}.access_token_file: is missing"),
    ],
)  # fmt: skip
def test_keys_of_another_method(text, expected):
    """Each is told at its own place; nothing is silently ignored."""
    found = [fault for fault in faults(text) if "No such file" not in fault]
    assert found[0] == expected
    assert "c4nary" not in "".join(found)


@pytest.mark.parametrize(
    ("key", "alg", "expected"),
    [
        (rsa.generate_private_key(65537, 2048), None, None),
        (rsa.generate_private_key(65537, 2048), "PS256", None),
        (ec.generate_private_key(ec.SECP256R1()), None, None),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA", None),
        (ec.generate_private_key(ec.SECP256R1()), "RS256", f"4:18: {ORDERS}.signing_alg: the key is for ES256, not for RS256"),
        (rsa.generate_private_key(65537, 2048), "EdDSA", f"4:18: {ORDERS}.signing_alg: the key is for RS256 or PS256, not for EdDSA"),
        (ec.generate_private_key(ec.SECP384R1()), None, f"4:23: {ORDERS}.private_key_file: keys are RSA, EC on the curve P-256, or Ed25519 (for RS256, PS256, ES256, EdDSA), and this is P-384"),
        (rsa.generate_private_key(65537, 1024), None, f"4:23: {ORDERS}.private_key_file: an RSA key needs 2048 bits at least (RFC 7518, 3.3)"),
    ],
)  # fmt: skip
def test_a_private_key(key, alg, expected):
    """It is read at start, and must be one for the algorithm that is asked for."""
    Path("key.pem").write_bytes(pem(key))
    line = "" if alg is None else f"signing_alg: {alg}\n"
    text = credential(BY_KEY + line + "private_key_file: key.pem")
    assert faults(text) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "text",
    [
        b"no key",
        b"{}",
        b'{"kty": "RSA"}',
        b'{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"}',
        json.dumps({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}).encode(),
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")),
    ],
    ids=["text", "empty object", "RSA without members", "symmetric", "broken point", "broken PEM", "with a password"],
)  # fmt: skip
def test_what_is_no_private_key(text):
    """One fault, which quotes nothing of the file."""
    Path("key.pem").write_bytes(text)
    assert faults(credential(BY_KEY + "private_key_file: key.pem")) == [
        f"4:23: {ORDERS}.private_key_file: the file holds no private key: PEM without a password, or a JWK"
    ]


@pytest.mark.parametrize("own", [True, False], ids=["its own", "another key's"])
def test_a_certificate_beside_the_key(own):
    """In the same file, before the key or behind it; one of another key would be refused by every server."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = certificate_of(key if own else ec.generate_private_key(ec.SECP256R1()))
    for number, text in enumerate([pem(key) + certificate, certificate + pem(key)]):
        Path(f"key{number}.pem").write_bytes(text)
        found = faults(credential(BY_KEY + f"private_key_file: key{number}.pem"))
        expected = f"4:23: {ORDERS}.private_key_file: the file also holds a certificate, and it is not the key's"
        assert found == ([] if own else [expected])


def test_a_public_key():
    """It signs nothing."""
    public = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    from base64 import urlsafe_b64encode

    x, y = (urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (public.x, public.y))
    Path("key.jwk").write_text(json.dumps({"kty": "EC", "crv": "P-256", "x": x, "y": y}))
    assert "no private key" in faults(credential(BY_KEY + "private_key_file: key.jwk"))[0]


def test_a_secret_file_that_is_too_short():
    """client_secret_jwt: the file is looked into as the text would be."""
    Path("secret").write_text("short")
    assert faults(credential(BY_SECRET_JWT + "client_secret_file: secret")) == [
        f"4:25: {ORDERS}.client_secret_file: client_secret: is too short for HS256, which needs 32 octets at least (RFC 7518, 3.2)"
    ]


def test_a_certificate_that_cannot_be_loaded():
    """RFC 8705: an error at start, of a credential and of a route, and never a connection without it."""
    made, other = self_signed(Path(), "made"), self_signed(Path(), "other")
    text = credential(BY_CERTIFICATE + f"tls: {{cert_file: {made.cert_file}, key_file: {made.key_file}}}")
    assert faults(text) == []
    (fault,) = faults(text.replace("made.key", "other.key"))
    assert fault.startswith(f"4:5: {ORDERS}.tls: tls.cert_file made.pem, tls.key_file other.key: cannot be used")
    (fault,) = faults(MINIMAL + f"    tls: {{cert_file: {made.cert_file}, key_file: {other.key_file}}}\n")
    assert fault.startswith("11:5: routes[0].tls: tls.cert_file made.pem")


@pytest.mark.parametrize("text", ["a b", "tok€n", 'a"b', "a\nb"])
def test_a_token_file_that_holds_none(text):
    """Before it could stand in a field."""
    Path("token").write_text(text)
    (fault,) = faults(credential("grant_type: static", more="access_token_file: token"))
    assert (
        fault
        == f"4:24: {ORDERS}.access_token_file: the file's text has characters that RFC 6750 allows in no Authorization field"
    )


def test_files_of_all_kinds_that_are_missing():
    """Each at its own place."""
    for key, lines in {
        "private_key_file": BY_KEY + "private_key_file: none",
        "client_assertion_file": BY_KEY + "client_assertion_file: none",
    }.items():
        (fault,) = faults(credential(lines))
        assert fault.endswith(f"{ORDERS}.{key}: the file cannot be read: No such file or directory")
    (fault,) = faults(credential("grant_type: static", more="access_token_file: none"))
    assert fault.endswith(f"{ORDERS}.access_token_file: the file cannot be read: No such file or directory")


@pytest.mark.parametrize("key", ["private_key_file", "client_assertion_file", "access_token_file"])
def test_a_proof_that_others_can_read(key):
    """Is a warning, as of a secret file."""
    content = pem(ec.generate_private_key(ec.SECP256R1())) if key == "private_key_file" else b"e30.e30.c2ln"
    Path("proof").write_bytes(content)
    Path("proof").chmod(0o644)
    if key == "access_token_file":
        text = credential("grant_type: static", more=f"{key}: proof")
    else:
        text = credential(BY_KEY + f"{key}: proof")
    place = f"4:{len(key) + 7}: {ORDERS}.{key}"
    assert f"{place}: every user of this machine can read the file (chmod o-r)" in warnings(text)


def test_a_proxy_s_password():
    """In the file it is a warning; from a variable it is none. It is shown nowhere."""
    text = credential("client_secret: ${SECRET}\nproxy_url: http://u:c4nary-pw@proxy:3128")
    assert any(w.startswith(f"4:16: {ORDERS}.proxy_url: a password stands in the file") for w in warnings(text))
    text = text.replace("c4nary-pw", "${PW}")
    assert warnings(text, PW="c4nary-pw") == []
    settings = loaded(text, PW="c4nary-pw").settings
    assert "c4nary" not in repr(settings)
    assert settings.credentials[0].registration.proxy.authorization.reveal() == "Basic dTpjNG5hcnktcHc="


@pytest.mark.parametrize("signs", [False, True])
def test_what_signing_costs(signs):
    """The libraries that sign are imported only where a credential signs, and then before the gateway serves."""
    Path("key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    text = credential(BY_KEY + "private_key_file: key.pem") if signs else credential("client_secret: ${SECRET}")
    Path("proxy.yaml").write_text(text)
    program = (
        "import sys, pathlib; from proxy.config.load import load; from proxy.process import assemble, worker;"
        "load(pathlib.Path('proxy.yaml'), environ={'SECRET': 'x'});"
        "print(sorted({'joserfc', 'cryptography'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment({}), capture_output=True, text=True, check=True, timeout=50
    )
    assert ended.stdout.strip() == ("['cryptography', 'joserfc']" if signs else "[]")
